from typing import Any

import jsonschema_rs
import pytest
from pydantic import ValidationError

from millrace_worker.registry import load_handlers

FILE = "file_" + "0" * 32
OTHER = "file_" + "1" * 32
REPORT = {"rows": [{"a": 1}], "format": "csv"}

VALID: list[tuple[str, dict[str, Any]]] = [
    ("imports:load", {"file_id": FILE, "dataset": "airports"}),
    ("imports:load", {"file_id": FILE, "dataset": "Größe 1", "format": "csv", "delimiter": "\t"}),
    ("files:archive", {"file_ids": [FILE, OTHER], "file_name": "june 2026.zip"}),
    ("deliveries:webhook", {"job_id": "job_" + "0" * 32}),
    ("reports:generate", REPORT),
    (
        "reports:generate",
        {
            "dataset": "airports",
            "format": "xlsx",
            "columns": ["state", "n"],
            "filter": [{"column": "state", "op": "in", "value": ["TX", None, 5, 1.5, True]}],
            "group_by": ["state"],
            "aggregates": [{"function": "count", "as": "n"}, {"function": "max", "column": "latitude"}],
            "sort": [{"column": "n", "descending": True}],
            "limit": 10,
            "title": "Airports / state",
            "file_name": "airports.xlsx",
        },
    ),
]
INVALID: list[tuple[str, dict[str, Any]]] = [
    ("deliveries:webhook", {}),
    ("deliveries:email", {"job_id": FILE}),
    ("deliveries:storage", {"job_id": "job_" + "0" * 32, "path": "x"}),
    ("imports:load", {"file_id": FILE}),
    ("imports:load", {"file_id": "file_1", "dataset": "x"}),
    ("imports:load", {"file_id": FILE, "dataset": ""}),
    ("imports:load", {"file_id": FILE, "dataset": "a\nb"}),
    ("imports:load", {"file_id": FILE, "dataset": "x", "delimiter": '"'}),
    ("imports:load", {"file_id": FILE, "dataset": "x", "delimiter": ";;"}),
    ("imports:load", {"file_id": FILE, "dataset": "x", "format": "xml"}),
    ("imports:load", {"file_id": FILE, "dataset": "x", "mode": "replace"}),
    ("files:archive", {"file_ids": []}),
    ("files:archive", {"file_ids": [FILE, FILE]}),
    ("files:archive", {"file_ids": [FILE], "file_name": "../x.zip"}),
    ("reports:generate", {"format": "csv"}),
    ("reports:generate", {**REPORT, "dataset": "x"}),
    ("reports:generate", {**REPORT, "format": "docx"}),
    ("reports:generate", {**REPORT, "rows": [{"a": 1}] * 10_001}),
    ("reports:generate", {**REPORT, "limit": 0}),
    ("reports:generate", {**REPORT, "columns": []}),
    ("reports:generate", {**REPORT, "aggregates": [{"function": "median", "column": "a"}]}),
    ("reports:generate", {**REPORT, "filter": [{"column": "a", "op": "like", "value": 1}]}),
    ("reports:generate", {**REPORT, "filter": [{"column": "a", "op": "in", "value": []}]}),
    ("reports:generate", {**REPORT, "filter": [{"column": "a", "op": "eq", "value": {"b": 1}}]}),
    ("reports:generate", {**REPORT, "file_name": "a/b"}),
    ("reports:generate", {**REPORT, "unknown": 1}),
]


@pytest.mark.parametrize(("type_name", "input_"), VALID)
def test_what_is_valid_passes_the_published_schema_and_the_handler(
    type_name: str, input_: dict[str, Any]
) -> None:
    handler = load_handlers(["millrace_worker.handlers"]).get(type_name)
    assert handler is not None
    assert jsonschema_rs.validator_for(dict(handler.input_schema)).is_valid(input_)
    handler.input_adapter.validate_python(input_)


@pytest.mark.parametrize(("type_name", "input_"), INVALID)
def test_what_is_not_valid_is_refused_by_both(type_name: str, input_: dict[str, Any]) -> None:
    handler = load_handlers(["millrace_worker.handlers"]).get(type_name)
    assert handler is not None
    assert not jsonschema_rs.validator_for(dict(handler.input_schema)).is_valid(input_)
    with pytest.raises(ValidationError):
        handler.input_adapter.validate_python(input_)


@pytest.mark.parametrize("type_name", ["imports:load", "files:archive", "reports:generate"])
def test_every_field_is_described(type_name: str) -> None:
    handler = load_handlers(["millrace_worker.handlers"]).get(type_name)
    assert handler is not None
    assert handler.label
    assert handler.description
    models = [handler.input_schema, *handler.input_schema.get("$defs", {}).values()]
    for model in models:
        assert model["additionalProperties"] is False
        assert model["description"]
        for name, field in model["properties"].items():
            assert field.get("description"), f"{model['title']}.{name}"
