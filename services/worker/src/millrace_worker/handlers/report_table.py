import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from millrace_worker.handlers.parsed_rows import MAX_COLUMNS

NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""A number as JSON has it: a leading zero or plus sign means a code."""

# 18 digits fit in 64 bits.
_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
_LONG_INTEGER = r"^-?[0-9]{19,}$"


class InvalidReportError(Exception):
    """The report that was asked for cannot be made of these rows; the text says why."""


class TableBuilder:
    """Collects rows batch by batch into a table with typed columns.

    A column whose values are all numbers, or texts that are all written as numbers, becomes numeric, and an
    empty text in it a missing value. A column of truth values is one. Any other column is text: as it was,
    with lists, objects and single numbers in their JSON form. `wanted` names the columns to keep; None: all.
    """

    def __init__(self, wanted: set[str] | None) -> None:
        self._wanted = wanted
        self._kinds: dict[str, set[type]] = {}
        self._seen: dict[str, None] = {}
        self._batches: list[pl.DataFrame] = []

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows as JSON objects. Raises InvalidReportError when they have too many columns."""
        for row in rows:
            self._seen.update(dict.fromkeys(row))
        if len(self._seen) > MAX_COLUMNS:
            raise InvalidReportError(f"the rows have more than {MAX_COLUMNS:,} different columns")
        names = [name for name in self._seen if self._wanted is None or name in self._wanted]
        columns = {name: self._column(name, [row.get(name) for row in rows]) for name in names}
        self._batches.append(pl.DataFrame(columns or None, height=len(rows)))

    def build(self) -> pl.DataFrame:
        """Make the table of all rows added; with none at all, an empty one of the wanted columns.

        Raises InvalidReportError naming wanted columns that no row has.
        """
        if not self._batches:
            return pl.DataFrame({name: [] for name in sorted(self._wanted or ())})
        if missing := sorted((self._wanted or set()) - set(self._seen)):
            raise InvalidReportError(unknown_columns(missing, list(self._seen)))
        table = pl.concat(self._batches, how="diagonal")
        self._batches.clear()
        return table.with_columns(_typed(table[name], kinds) for name, kinds in self._kinds.items())

    def _column(self, name: str, values: list[Any]) -> pl.Series:
        kinds = set(map(type, values)) - {type(None)}
        self._kinds.setdefault(name, set()).update(kinds)
        texts = values if kinds <= {str} else [_text(value) for value in values]
        return pl.Series(name, texts, dtype=pl.String)


def unknown_columns(names: Sequence[str], known: Sequence[str]) -> str:
    """Say that columns do not exist, and which do."""
    listed = ", ".join(f'"{name}"' for name in known[:20]) + (", …" if len(known) > 20 else "")
    unknown = ", ".join(f'"{name}"' for name in names)
    return f"unknown column {unknown}; there are {listed or 'no columns'}"


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if type(value) in (int, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _typed(texts: pl.Series, kinds: set[type]) -> pl.Series:
    if kinds == {bool}:
        return texts == "true"
    if kinds and kinds <= {str, int, float}:
        numbers = _numbers(texts.replace("", None))
        return texts if numbers is None else numbers
    return texts


def _numbers(texts: pl.Series) -> pl.Series | None:
    present = texts.drop_nulls()
    if present.is_empty():
        return None
    if present.str.contains(_INTEGER).all():
        return texts.cast(pl.Int64)
    if not present.str.contains(NUMBER).all() or present.str.contains(_LONG_INTEGER).any():
        return None
    numbers = texts.cast(pl.Float64)
    return numbers if numbers.drop_nulls().is_finite().all() else None
