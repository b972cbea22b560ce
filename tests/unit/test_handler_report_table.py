from typing import Any

import polars as pl
import pytest

from millrace_worker.handlers.report_table import InvalidReportError, TableBuilder


def table(*batches: list[dict[str, Any]], wanted: set[str] | None = None) -> pl.DataFrame:
    builder = TableBuilder(wanted)
    for batch in batches:
        builder.add(batch)
    return builder.build()


def column(*values: Any) -> pl.Series:
    return table([{"x": value} for value in values])["x"]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (["1", "-20", "0"], pl.Int64, [1, -20, 0]),
        (["1", "", "3"], pl.Int64, [1, None, 3]),
        (["1", "2.5", "-1e3"], pl.Float64, [1.0, 2.5, -1000.0]),
        ([1, 2, None], pl.Int64, [1, 2, None]),
        ([1, 2.5], pl.Float64, [1.0, 2.5]),
        ([1, "2"], pl.Int64, [1, 2]),
        ([True, None, False], pl.Boolean, [True, None, False]),
        (["02134", "90210"], pl.String, ["02134", "90210"]),
        (["+1", "2"], pl.String, ["+1", "2"]),
        (["1", "n/a"], pl.String, ["1", "n/a"]),
        (["12345678901234567890", "1"], pl.String, ["12345678901234567890", "1"]),
        ([12345678901234567890123, 1], pl.String, ["12345678901234567890123", "1"]),
        (["1e999", "1"], pl.String, ["1e999", "1"]),
        (["true", "false"], pl.String, ["true", "false"]),
        (["", ""], pl.String, ["", ""]),
        ([1, True, "a", None, [1, {"b": "ü"}]], pl.String, ["1", "true", "a", None, '[1, {"b": "ü"}]']),
    ],
)
def test_a_column_has_the_type_that_all_its_values_have(
    values: list[Any], dtype: type[pl.DataType], expected: list[Any]
) -> None:
    found = column(*values)
    assert found.dtype == dtype
    assert found.to_list() == expected


def test_types_are_decided_over_all_batches_and_missing_columns_are_filled() -> None:
    found = table([{"a": "1"}], [{"b": "x", "a": "2.5"}], [{}])
    assert found.to_dict(as_series=False) == {"a": [1.0, 2.5, None], "b": [None, "x", None]}


def test_keeps_wanted_columns_only_and_counts_all_rows() -> None:
    found = table([{"a": "1", "b": "x"}, {"a": "2"}], wanted={"a"})
    assert found.to_dict(as_series=False) == {"a": [1, 2]}
    assert table([{"a": "1"}] * 3, [{"b": "1"}] * 2, wanted=set()).height == 5


def test_an_unknown_column_is_named_beside_those_that_exist() -> None:
    with pytest.raises(InvalidReportError, match='unknown column "c"; there are "a", "b"'):
        table([{"a": 1, "b": 2}], wanted={"a", "c"})


def test_without_rows_the_wanted_columns_are_there_and_empty() -> None:
    found = table(wanted={"b", "a"})
    assert found.columns == ["a", "b"]
    assert found.height == 0


def test_too_many_columns() -> None:
    with pytest.raises(InvalidReportError, match="more than 1,000 different columns"):
        table([{str(number): 1 for number in range(1_001)}])
