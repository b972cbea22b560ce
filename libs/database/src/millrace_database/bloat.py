"""How much room tables and their indexes take, and how much their rows need: by Postgres's statistics, without reading a row."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import asyncpg

from millrace_database import bloat_statements as statements

# What Postgres adds: to a page of a table and of a B-tree, to a row and an index entry, and a pointer to each of these.
_PAGE_HEADER = 24
_BTREE_PAGE_END = 16
_ROW_HEADER = 23
_ENTRY_HEADER = 8
_POINTER = 4
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table.

    Attributes:
        name: its name.
        live_rows: how many rows it has, estimated.
        dead_rows: how many are left of rows that were changed or removed, estimated.
        changes: how many rows have changed since the last analyze.
        bytes: its size, without indexes and without what is stored apart from its row.
        needed_bytes: what its rows would take freshly written, at its fill factor; None: unknown, since it was not analyzed.
        last_vacuum_at: the last vacuum, by hand or by itself; None: never, as far as is known.
        last_analyze_at: the last analyze, likewise.
        unfrozen_age: how many transactions have begun since its oldest row that is not frozen.

    """

    name: str
    live_rows: int
    dead_rows: int
    changes: int
    bytes: int
    needed_bytes: int | None
    last_vacuum_at: datetime | None
    last_analyze_at: datetime | None
    unfrozen_age: int


@dataclass(frozen=True, slots=True)
class IndexSize:
    """An index.

    Attributes:
        name: its name.
        table: that of its table.
        bytes: its size.
        needed_bytes: what its entries would take freshly built; None: unknown, or no B-tree.
        is_valid: whether queries use it; not after a CREATE or REINDEX CONCURRENTLY that failed.

    """

    name: str
    table: str
    bytes: int
    needed_bytes: int | None
    is_valid: bool


@dataclass(frozen=True, slots=True)
class Sizes:
    """The tables and their indexes, by name; `freeze_age` is when Postgres freezes by itself, `measured_at` the time."""

    tables: Sequence[TableSize]
    indexes: Sequence[IndexSize]
    freeze_age: int
    measured_at: datetime


async def measure_sizes(conn: asyncpg.Connection, tables: Sequence[str]) -> Sizes:
    """Measure these tables, as far as they exist, and all their indexes."""
    (server,) = await conn.fetch(statements.SERVER)
    page = server["page_bytes"]
    measured = await conn.fetch(statements.MEASURE_TABLES, tables)
    rows = {row["name"]: row for row in measured}
    indexes = await conn.fetch(statements.MEASURE_INDEXES, tables)
    return Sizes(
        tables=[_table(row, page) for row in measured],
        indexes=[_index(row, rows[row["table"]], page) for row in indexes if row["table"] in rows],
        freeze_age=server["freeze_age"],
        measured_at=server["now"],
    )


def table_bytes(rows: float, data_width: float, columns: int, fill_factor: int, *, page: int) -> int:
    """Return what so many rows take, freshly written; `data_width` is that of a row without its header."""
    # With a bit for each column, which Postgres leaves out of a row without a NULL; what lies between values to align them
    # is left out here.
    header = _aligned(_ROW_HEADER + (columns + 7) // 8)
    row = header + _aligned(data_width) + _POINTER
    return _pages(rows, row, (page - _PAGE_HEADER) * fill_factor / 100) * page


def btree_bytes(entries: float, data_width: float, fill_factor: int, *, page: int) -> int:
    """Return what a B-tree of so many entries takes, freshly built and without saving on equal keys."""
    entry = _aligned(_ENTRY_HEADER + data_width) + _POINTER
    room = (page - _PAGE_HEADER - _BTREE_PAGE_END) * fill_factor / 100
    leaves = _pages(entries, entry, room)
    # A page that tells where the root is, and those above the leaves: few.
    return (1 + leaves + leaves // 100) * page


def _table(row: asyncpg.Record, page: int) -> TableSize:
    needed = None
    if _is_sampled(row) and (row["is_known"] or not _rows(row)):
        needed = table_bytes(_rows(row), row["data_width"], row["columns"], row["fill_factor"], page=page)
    told = {field.name: row[field.name] for field in fields(TableSize) if field.name != "needed_bytes"}
    return TableSize(**told, needed_bytes=needed)


def _index(row: asyncpg.Record, table: asyncpg.Record, page: int) -> IndexSize:
    needed = None
    if _is_sampled(table) and row["is_known"] and row["sampled_rows"] >= 0:
        entries = _rows(table)
        if row["is_partial"]:
            # Its share of the table is that of the last sample.
            growth = max(entries / table["sampled_rows"], 1) if table["sampled_rows"] else 1
            entries = min(row["sampled_rows"] * growth, entries)
        needed = btree_bytes(entries, row["data_width"], row["fill_factor"], page=page)
    return IndexSize(row["name"], row["table"], row["bytes"], needed, row["is_valid"])


def _is_sampled(table: asyncpg.Record) -> bool:
    """Return whether the estimates of rows mean anything: after a crash, or a restore, those of before are forgotten."""
    vacuumed_at, analyzed_at = table["last_vacuum_at"], table["last_analyze_at"]
    return table["sampled_rows"] >= 0 and (vacuumed_at is not None or analyzed_at is not None)


def _rows(table: asyncpg.Record) -> float:
    """Return the larger of two estimates: a sample may be old, and what was counted since it may be lost in a crash."""
    return float(max(table["sampled_rows"], table["live_rows"]))


def _pages(count: float, width: float, room: float) -> int:
    return int(-(-count // max(room // width, 1)))


def _aligned(width: float) -> float:
    return -(-width // _ALIGNMENT) * _ALIGNMENT
