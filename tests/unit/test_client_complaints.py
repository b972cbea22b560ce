"""What the command prints of the error of a call."""

import grpc
import pytest

from millrace_client import Quota, ResourceExhaustedError
from millrace_client.command.output import complain_of_call
from millrace_client.errors import ErrorDetails


def test_whoever_has_too_many_uploads_open_learns_how_to_see_them(capsys: pytest.CaptureFixture[str]) -> None:
    details = ErrorDetails(quota=Quota("files.open_uploads", "org:acme", 1_000))
    error = ResourceExhaustedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", details)
    complain_of_call(error, "a.csv")
    assert capsys.readouterr().err.splitlines() == [
        "error: a.csv: RESOURCE_EXHAUSTED: too many",
        "  files.open_uploads of org:acme is 1000",
        "  `millrace files uploads list` shows them, `millrace files uploads cancel` gives one up",
    ]


def test_what_the_message_names_is_not_named_twice(capsys: pytest.CaptureFixture[str]) -> None:
    error = ResourceExhaustedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "a.csv is too much", ErrorDetails())
    complain_of_call(error, "a.csv")
    assert capsys.readouterr().err == "error: RESOURCE_EXHAUSTED: a.csv is too much\n"
