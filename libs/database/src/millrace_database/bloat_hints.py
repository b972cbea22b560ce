"""What an operator may want to do about tables and indexes, as their sizes say. Hints only: nothing is done by itself."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from millrace_database.bloat import IndexSize, Sizes, TableSize
from millrace_database.queue_health import OldestTransaction

_MEBIBYTE = 2**20

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_COPY = re.compile(r"_cc(new|old)\d*$")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a hint is worth its line. What is smaller costs nothing that anybody notices.

    Attributes:
        ratio: so many times what is needed. A healthy B-tree is up to twice as large as a fresh one: its pages are two thirds
            full where keys come in no order, and half full where each comes before all others, as in indexes by descending
            ids. And widths are estimates. 3 is neither.
        table_bytes: and so many bytes more. Free pages of a table are used again and read by few; only the disk has them.
        index_bytes: the same of an index, whose pages fill the cache although there is little on them: a quarter of the
            cache that Postgres has when nobody gives it more (128 MB).
        rows: so many rows are dead or have changed, and
        dead_share: such a share of those that live is dead, and
        vacuum_age: no vacuum for so long: one that is on its way needs no hint.
        changes_share: such a share of the rows has changed since the last analyze, five times what Postgres waits for.
        freeze_ratio: so many times the age at which Postgres freezes by itself: it is kept from it.

    """

    ratio: float = 3.0
    table_bytes: int = 256 * _MEBIBYTE
    index_bytes: int = 32 * _MEBIBYTE
    rows: int = 10_000
    dead_share: float = 0.2
    vacuum_age: timedelta = timedelta(hours=1)
    changes_share: float = 0.5
    freeze_ratio: float = 1.25


DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True)
class Hint:
    """What was found, and the command that mends it.

    Attributes:
        kind: one of "table_bloat", "index_bloat", "dead_rows", "old_statistics", "unfrozen", "invalid_index",
            "old_transaction".
        name: the table or index, or the owner of the transaction.
        found: what was found, in words.
        command: what to run.
        bytes: the size, of bloat.
        ratio: the size over what is needed, of bloat.

    """

    kind: str
    name: str
    found: str
    command: str
    bytes: int | None = None
    ratio: float | None = None


def hints_of(
    sizes: Sizes, oldest: OldestTransaction | None, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> list[Hint]:
    """Return what is to be said of these sizes, and of what keeps vacuum from its work."""
    hints = [hint for table in sizes.tables for hint in _of_table(table, sizes, thresholds)]
    hints += [hint for index in sizes.indexes for hint in _of_index(index, thresholds)]
    if oldest is not None:
        hints.append(_of_transaction(oldest))
    return hints


def _of_table(table: TableSize, sizes: Sizes, thresholds: Thresholds) -> Iterator[Hint]:
    vacuumed = table.last_vacuum_at
    if table.dead_rows >= max(thresholds.rows, thresholds.dead_share * table.live_rows) and (
        vacuumed is None or vacuumed < sizes.measured_at - thresholds.vacuum_age
    ):
        yield Hint(
            "dead_rows",
            table.name,
            f"{table.dead_rows} dead rows beside {table.live_rows}, last vacuum {_time(vacuumed)}",
            f"VACUUM (ANALYZE) {table.name}",
        )
    elif (
        bloat := _bloat(table.bytes, table.needed_bytes, thresholds.ratio, thresholds.table_bytes)
    ) is not None:
        yield Hint("table_bloat", table.name, *bloat.told(f"VACUUM (ANALYZE, TRUNCATE) {table.name}"))
    if table.changes >= max(thresholds.rows, thresholds.changes_share * table.live_rows):
        yield Hint(
            "old_statistics",
            table.name,
            f"{table.changes} changes since the last analyze, {_time(table.last_analyze_at)}",
            f"ANALYZE {table.name}",
        )
    if table.unfrozen_age > thresholds.freeze_ratio * sizes.freeze_age:
        yield Hint(
            "unfrozen",
            table.name,
            f"its oldest row is {table.unfrozen_age} transactions old, and Postgres freezes at {sizes.freeze_age}",
            f"VACUUM (FREEZE) {table.name}",
        )


def _of_index(index: IndexSize, thresholds: Thresholds) -> Iterator[Hint]:
    if not index.is_valid:
        # What a REINDEX CONCURRENTLY that failed left beside the index that is used.
        is_copy = _COPY.search(index.name) is not None
        yield Hint(
            "invalid_index",
            index.name,
            f"an index of {index.table} that is not valid: written, and used by nobody",
            f"{'DROP' if is_copy else 'REINDEX'} INDEX CONCURRENTLY {_identifier(index.name)}",
        )
    elif (
        bloat := _bloat(index.bytes, index.needed_bytes, thresholds.ratio, thresholds.index_bytes)
    ) is not None:
        yield Hint(
            "index_bloat", index.name, *bloat.told(f"REINDEX INDEX CONCURRENTLY {_identifier(index.name)}")
        )


def _of_transaction(oldest: OldestTransaction) -> Hint:
    command = {
        "replication slot": f"SELECT pg_drop_replication_slot({_literal(oldest.owner)})",
        "prepared transaction": f"ROLLBACK PREPARED {_literal(oldest.owner)}",
    }.get(oldest.state, f"SELECT pg_terminate_backend({oldest.pid})")
    found = f"{oldest.state or 'a transaction'} since {_time(oldest.started_at)} keeps dead rows from being removed"
    return Hint("old_transaction", oldest.owner, found, command)


@dataclass(frozen=True, slots=True)
class _Bloat:
    bytes: int
    needed: int

    def told(self, command: str) -> tuple[str, str, int, float]:
        ratio = self.bytes / self.needed
        size, needed = (round(amount / _MEBIBYTE) for amount in (self.bytes, self.needed))
        return f"{size} MiB, and about {needed} are needed", command, self.bytes, round(ratio, 1)


def _bloat(size: int, needed: int | None, ratio: float, least: int) -> _Bloat | None:
    if needed is None:
        return None
    # Of nothing a ratio cannot be told.
    needed = max(needed, 1)
    return _Bloat(size, needed) if size >= ratio * needed and size - needed >= least else None


def _identifier(name: str) -> str:
    """Return a name as SQL has it: operators may have added indexes of any name."""
    return name if _PLAIN.fullmatch(name) else '"{}"'.format(name.replace('"', '""'))


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))


def _time(time: object) -> str:
    return "unknown" if time is None else f"{time:%Y-%m-%d %H:%M}"
