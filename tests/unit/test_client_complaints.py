"""What the command prints of the error of a call."""

import sys
from collections.abc import AsyncIterator

import grpc
import pytest
import typer

from millrace_client import FieldViolation, Quota, ResourceExhaustedError, UnavailableError
from millrace_client.command.output import Columns, Output, complain_of_call, one_more
from millrace_client.command.several import each
from millrace_client.errors import ErrorDetails, from_rpc_error


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


@pytest.mark.parametrize(
    ("details", "hints"),
    [
        ("Cancelling all calls", []),
        ("no such host", ["  is it running? `millrace up` starts everything on this machine"]),
    ],
)
def test_of_what_broke_in_the_middle_nobody_is_asked_whether_it_runs(
    capsys: pytest.CaptureFixture[str], details: str, hints: list[str]
) -> None:
    none = grpc.aio.Metadata()
    complain_of_call(from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, details)))
    assert capsys.readouterr().err.splitlines()[1:] == hints


async def test_after_a_service_that_is_away_the_others_are_not_tried(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tried: list[str] = []

    async def handle(name: str) -> None:
        tried.append(name)
        if name == "b":
            raise UnavailableError(
                grpc.StatusCode.UNAVAILABLE, "the store is away", ErrorDetails(reason="STORE_UNAVAILABLE")
            )

    with pytest.raises(typer.Exit) as ended:
        await each(["a", "b", "c"], handle)
    assert ended.value.exit_code == 64 + grpc.StatusCode.UNAVAILABLE.value[0]
    assert tried == ["a", "b"]
    assert capsys.readouterr().err == "error: b: UNAVAILABLE: the store is away\n  not tried: c\n"


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(("limit", "shown", "says"), [(2, 2, True), (3, 3, False), (0, 3, False)])
async def test_a_list_that_ends_at_its_limit_says_so_to_a_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    as_json: bool,
    limit: int,
    shown: int,
    says: bool,
) -> None:
    async def items() -> AsyncIterator[FieldViolation]:
        for number in range(3)[: one_more(limit)]:
            yield FieldViolation(str(number), "")

    columns: Columns[FieldViolation] = {"FIELD": lambda bad: bad.field}
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)  # noqa: B023 - called in this round
        await Output(as_json=as_json).table(columns, items(), limit)
        printed = capsys.readouterr()
        assert len(printed.out.splitlines()) == shown + (not as_json)
        assert printed.err == ("there are more than 2: --limit 0 shows all\n" if says and is_terminal else "")
