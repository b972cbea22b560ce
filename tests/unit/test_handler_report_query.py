from typing import Any

import polars as pl
import pytest

from millrace_worker.handlers.report_input import ReportQuery
from millrace_worker.handlers.report_query import run_query
from millrace_worker.handlers.report_table import InvalidReportError

CITIES = pl.DataFrame(
    {
        "city": ["Austin", "Dallas", "Reno", "Elko", "Nome"],
        "state": ["TX", "TX", "NV", "NV", None],
        "people": [961_855, 1_304_379, 264_165, None, 3_699],
        "share": [0.5, 0.25, 0.75, 0.125, None],
        "capital": [True, False, False, None, False],
    }
)


def run(table: pl.DataFrame = CITIES, **query: Any) -> list[dict[str, Any]]:
    return run_query(table, ReportQuery.model_validate(query)).to_dicts()


def cities(*conditions: dict[str, Any]) -> list[str]:
    return [row["city"] for row in run(filter=list(conditions))]


@pytest.mark.parametrize(
    ("column", "op", "value", "expected"),
    [
        ("state", "eq", "TX", ["Austin", "Dallas"]),
        ("state", "ne", "TX", ["Reno", "Elko", "Nome"]),
        ("state", "eq", None, ["Nome"]),
        ("state", "ne", None, ["Austin", "Dallas", "Reno", "Elko"]),
        ("state", "in", ["NV", None], ["Reno", "Elko", "Nome"]),
        ("state", "in", ["NV", "CA"], ["Reno", "Elko"]),
        ("city", "contains", "l", ["Dallas", "Elko"]),
        ("city", "contains", ".", []),
        ("city", "lt", "Dallas", ["Austin"]),
        ("city", "ge", "Nome", ["Reno", "Nome"]),
        ("people", "gt", 264_165, ["Austin", "Dallas"]),
        ("people", "ge", "264165", ["Austin", "Dallas", "Reno"]),
        ("people", "lt", 3_699.5, ["Nome"]),
        ("people", "le", 3_699.0, ["Nome"]),
        ("people", "ne", 3_699, ["Austin", "Dallas", "Reno", "Elko"]),
        ("people", "in", [3_699.0, "264165"], ["Reno", "Nome"]),
        ("people", "contains", "37", ["Dallas"]),
        ("people", "lt", 10**30, ["Austin", "Dallas", "Reno", "Nome"]),
        ("people", "gt", "-1e3", ["Austin", "Dallas", "Reno", "Nome"]),
        ("share", "eq", 0.25, ["Dallas"]),
        ("capital", "eq", True, ["Austin"]),
        ("capital", "eq", "false", ["Dallas", "Reno", "Nome"]),
    ],
)
def test_filters(column: str, op: str, value: Any, expected: list[str]) -> None:
    assert cities({"column": column, "op": op, "value": value}) == expected


def test_all_conditions_must_be_met() -> None:
    assert cities(
        {"column": "state", "op": "eq", "value": "TX"}, {"column": "people", "op": "lt", "value": 1_000_000}
    ) == ["Austin"]


def test_a_number_is_found_in_a_column_of_text() -> None:
    table = pl.DataFrame({"code": ["5", "5b", "6"]})
    assert run(table, filter=[{"column": "code", "op": "eq", "value": 5}]) == [{"code": "5"}]


def test_groups_come_in_the_order_of_their_values_with_missing_ones_last() -> None:
    assert run(
        group_by=["state"],
        aggregates=[
            {"function": "count"},
            {"function": "count", "column": "people", "as": "known"},
            {"function": "sum", "column": "people"},
            {"function": "mean", "column": "share"},
            {"function": "min", "column": "city"},
            {"function": "max", "column": "people"},
        ],
    ) == [
        {
            "state": "NV",
            "count": 2,
            "known": 1,
            "sum_people": 264_165,
            "mean_share": 0.4375,
            "min_city": "Elko",
            "max_people": 264_165,
        },
        {
            "state": "TX",
            "count": 2,
            "known": 2,
            "sum_people": 2_266_234,
            "mean_share": 0.375,
            "min_city": "Austin",
            "max_people": 1_304_379,
        },
        {
            "state": None,
            "count": 1,
            "known": 1,
            "sum_people": 3_699,
            "mean_share": None,
            "min_city": "Nome",
            "max_people": 3_699,
        },
    ]


def test_groups_without_aggregates_are_counted() -> None:
    assert run(group_by=["capital"]) == [
        {"capital": False, "count": 3},
        {"capital": True, "count": 1},
        {"capital": None, "count": 1},
    ]


def test_aggregates_without_groups_are_one_row() -> None:
    assert run(aggregates=[{"function": "count"}, {"function": "max", "column": "share"}]) == [
        {"count": 5, "max_share": 0.75}
    ]


def test_a_sum_beyond_64_bits_is_no_wrong_number() -> None:
    table = pl.DataFrame({"x": [2**62, 2**62, 2**62]})
    assert run(table, aggregates=[{"function": "sum", "column": "x"}]) == [{"sum_x": float(3 * 2**62)}]


def test_a_sum_that_is_no_finite_number_is_missing() -> None:
    table = pl.DataFrame({"x": [1e308, 1e308]})
    assert run(table, aggregates=[{"function": "sum", "column": "x"}]) == [{"sum_x": None}]


def test_sorts_stably_with_missing_values_last_then_limits_then_chooses_columns() -> None:
    rows = run(
        sort=[{"column": "state", "descending": True}, {"column": "people"}],
        limit=4,
        columns=["city", "state"],
    )
    assert rows == [
        {"city": "Austin", "state": "TX"},
        {"city": "Dallas", "state": "TX"},
        {"city": "Reno", "state": "NV"},
        {"city": "Elko", "state": "NV"},
    ]


def test_sorts_by_an_aggregate() -> None:
    rows = run(
        group_by=["state"], sort=[{"column": "count", "descending": True}, {"column": "state"}], limit=1
    )
    assert rows == [{"state": "NV", "count": 2}]


def test_an_empty_table_without_known_types_gives_an_empty_report() -> None:
    table = pl.DataFrame({"a": [], "b": []})
    query = {
        "filter": [{"column": "a", "op": "gt", "value": 5}, {"column": "a", "op": "contains", "value": "x"}],
        "group_by": ["a"],
        "aggregates": [{"function": "sum", "column": "b"}, {"function": "mean", "column": "b"}],
    }
    assert run(table, **query) == []


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"columns": ["town"]}, 'unknown column "town"; there are "city", "state"'),
        ({"columns": ["city", "city"]}, "columns names a column twice"),
        ({"sort": [{"column": "town"}]}, 'unknown column "town"'),
        ({"group_by": ["town"]}, 'unknown column "town"'),
        (
            {"group_by": ["state"], "sort": [{"column": "city"}]},
            'unknown column "city"; there are "state", "count"',
        ),
        ({"aggregates": [{"function": "sum", "column": "city"}]}, 'sum needs a numeric column; "city"'),
        ({"aggregates": [{"function": "mean", "column": "capital"}]}, "mean needs a numeric column"),
        ({"aggregates": [{"function": "max"}]}, "max needs a column"),
        (
            {"aggregates": [{"function": "count"}, {"function": "count"}]},
            "two columns of the result have one name",
        ),
        ({"filter": [{"column": "town", "op": "eq", "value": "x"}]}, 'unknown column "town"'),
        (
            {"filter": [{"column": "people", "op": "gt", "value": "many"}]},
            "numeric and cannot be compared with 'many'",
        ),
        (
            {"filter": [{"column": "people", "op": "eq", "value": "nan"}]},
            "numeric and cannot be compared with 'nan'",
        ),
        (
            {"filter": [{"column": "people", "op": "eq", "value": True}]},
            "numeric and cannot be compared with True",
        ),
        (
            {"filter": [{"column": "city", "op": "lt", "value": 5}]},
            "not numeric and cannot be compared with 5",
        ),
        (
            {"filter": [{"column": "capital", "op": "eq", "value": 1}]},
            "true or false and cannot be compared with 1",
        ),
        ({"filter": [{"column": "city", "op": "in", "value": "x"}]}, "with in needs a list"),
        ({"filter": [{"column": "city", "op": "eq", "value": ["x"]}]}, "with eq needs one value"),
        ({"filter": [{"column": "city", "op": "contains", "value": 5}]}, "with contains needs a text"),
        ({"filter": [{"column": "city", "op": "lt", "value": None}]}, "compares lt with null"),
    ],
)
def test_says_why_a_query_cannot_be_answered(query: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidReportError) as caught:
        run(**query)
    assert reason in str(caught.value)
