import json
import re
from collections.abc import Callable, Sequence

import polars as pl

from millrace_worker.handlers.report_input import Aggregate, Filter, ReportQuery, Scalar
from millrace_worker.handlers.report_table import NUMBER, InvalidReportError, unknown_columns

_COMPARISONS: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "eq": pl.Expr.eq,
    "ne": pl.Expr.ne_missing,
    "lt": pl.Expr.lt,
    "le": pl.Expr.le,
    "gt": pl.Expr.gt,
    "ge": pl.Expr.ge,
}


def run_query(table: pl.DataFrame, query: ReportQuery) -> pl.DataFrame:
    """Filter, group, sort, limit and choose columns.

    A row whose value is missing meets only `ne` and `eq null`. Raises InvalidReportError.
    """
    for condition in query.filter:
        _require(table, [condition.column])
        table = table.filter(_condition(table.schema[condition.column], condition))
    if query.is_grouped:
        table = _grouped(table, query)
    if query.sort:
        names = [item.column for item in query.sort]
        _require(table, names)
        descending = [item.descending for item in query.sort]
        table = table.sort(names, descending=descending, nulls_last=True, maintain_order=True)
    if query.limit is not None:
        table = table.head(query.limit)
    if query.columns is not None:
        _require(table, query.columns)
        if len(set(query.columns)) < len(query.columns):
            raise InvalidReportError("columns names a column twice")
        table = table.select(query.columns)
    if table.height and not table.width:
        raise InvalidReportError("the rows have no columns")
    return table


def _require(table: pl.DataFrame, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in table.columns]:
        raise InvalidReportError(unknown_columns(missing, table.columns))


def _condition(dtype: pl.DataType, condition: Filter) -> pl.Expr:
    column = pl.col(condition.column)
    value = condition.value
    if condition.op == "in":
        if not isinstance(value, list):
            raise InvalidReportError(f'the filter of "{condition.column}" with in needs a list')
        return _is_in(column, dtype, condition, value)
    if isinstance(value, list):
        raise InvalidReportError(
            f'the filter of "{condition.column}" with {condition.op} needs one value, not a list'
        )
    if condition.op == "contains":
        if not isinstance(value, str):
            raise InvalidReportError(f'the filter of "{condition.column}" with contains needs a text')
        return column.cast(pl.String).str.contains(value, literal=True)
    if value is None:
        if condition.op == "eq":
            return column.is_null()
        if condition.op == "ne":
            return column.is_not_null()
        raise InvalidReportError(f'the filter of "{condition.column}" compares {condition.op} with null')
    return _COMPARISONS[condition.op](column, pl.lit(_comparable(value, dtype, condition)))


def _is_in(column: pl.Expr, dtype: pl.DataType, condition: Filter, values: list[Scalar]) -> pl.Expr:
    wanted = [_comparable(value, dtype, condition) for value in values if value is not None]
    found = (
        pl.any_horizontal([column.eq(pl.lit(value)) for value in wanted]) if wanted else pl.lit(value=False)
    )
    return (found.fill_null(value=False) | column.is_null()) if None in values else found


def _comparable(value: Scalar, dtype: pl.DataType, condition: Filter) -> Scalar:
    """Convert the value to the column's type."""
    if dtype == pl.Boolean:
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return value == "true"
        raise InvalidReportError(
            f'"{condition.column}" is true or false and cannot be compared with {value!r}'
        )
    if dtype.is_numeric():
        return _number(value, condition)
    if isinstance(value, str) or dtype == pl.Null:
        return value
    if condition.op in ("eq", "ne", "in"):
        return str(value).lower() if isinstance(value, bool) else f"{value}"
    raise InvalidReportError(f'"{condition.column}" is not numeric and cannot be compared with {value!r}')


def _number(value: Scalar, condition: Filter) -> int | float:
    if isinstance(value, str) and re.fullmatch(NUMBER, value):
        value = json.loads(value)
    if value is None or isinstance(value, bool | str):
        raise InvalidReportError(f'"{condition.column}" is numeric and cannot be compared with {value!r}')
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _grouped(table: pl.DataFrame, query: ReportQuery) -> pl.DataFrame:
    aggregates = query.aggregates or [Aggregate(function="count")]
    _require(table, [*query.group_by, *(item.column for item in aggregates if item.column is not None)])
    names = [*query.group_by, *(item.name for item in aggregates)]
    if len(set(names)) < len(names):
        raise InvalidReportError('two columns of the result have one name; "as" gives an aggregate another')
    expressions = [_aggregate(table, item).alias(item.name) for item in aggregates]
    if not query.group_by:
        return _finite(table.select(expressions))
    groups = table.group_by(query.group_by, maintain_order=True).agg(expressions)
    return _finite(groups.sort(query.group_by, nulls_last=True))


def _aggregate(table: pl.DataFrame, item: Aggregate) -> pl.Expr:
    if item.column is None:
        if item.function == "count":
            return pl.len().cast(pl.Int64)
        raise InvalidReportError(f"{item.function} needs a column")
    column = pl.col(item.column)
    if item.function == "count":
        return column.count().cast(pl.Int64)
    if item.function in ("min", "max"):
        return column.min() if item.function == "min" else column.max()
    dtype = table.schema[item.column]
    if not dtype.is_numeric() and dtype != pl.Null:
        raise InvalidReportError(
            f'{item.function} needs a numeric column; "{item.column}" holds other values'
        )
    if item.function == "mean":
        return column.cast(pl.Float64).mean()
    # A sum beyond 64 bits would come out wrong without a word.
    return column.cast(pl.Float64).sum() if dtype.is_float() else column.cast(pl.Int128).sum()


def _finite(table: pl.DataFrame) -> pl.DataFrame:
    """Bring sums back to 64 bits, as floats where they do not fit; what is no finite number becomes missing."""
    for name, dtype in table.schema.items():
        if dtype == pl.Int128:
            small = table[name].cast(pl.Int64, strict=False)
            fits = small.null_count() == table[name].null_count()
            table = table.with_columns(small if fits else table[name].cast(pl.Float64))
        elif dtype.is_float():
            table = table.with_columns(pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name))
    return table
