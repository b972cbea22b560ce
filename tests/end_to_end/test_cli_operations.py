"""What operators do with `millrace`, as its own process against the real services."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace_database.database import Database
from support.command_line import CommandLine
from support.whole_system import running_whole_system

FUTURE = ("--run-at", "2099-01-01T00:00:00Z")


@pytest.fixture
async def millrace(database: Database, tmp_path: Path) -> AsyncIterator[CommandLine]:
    async with running_whole_system(database, tmp_path / "data") as system:
        yield CommandLine(system.environment)


async def test_every_option_of_create_arrives(millrace: CommandLine) -> None:
    create = ("jobs", "create", "toy:wait", "--json", "--delay", "2h", "--timeout", "90s")
    retry = (
        "--retry-backoff",
        "linear",
        "--retry-delay",
        "5s",
        "--retry-max-delay",
        "1m",
        "--retry-jitter",
        "0",
    )
    unique = ("--unique-key", "u", "--unique-scope", "organisation", "--unique-states", "waiting")
    concurrency = ("--concurrency-key", "c", "--key-order", "skip-failed")
    more = ("--deadline", "2099-01-02T00:00:00Z", "--dead-letter", "toy:add")
    job = (await millrace.succeed(*create, *retry, *unique, *concurrency, *more)).line
    assert job["runAt"] > job["createdAt"]
    assert (job["timeout"], job["deadline"], job["deadLetterType"]) == (
        "90s",
        "2099-01-02T00:00:00Z",
        "toy:add",
    )
    assert job["retryPolicy"] == {
        "backoff": "BACKOFF_LINEAR",
        "initialDelay": "5s",
        "maxDelay": "60s",
        "jitter": 0,
    }
    assert job["unique"] == {
        "key": "u",
        "scope": "UNIQUE_SCOPE_ORGANISATION",
        "states": "UNIQUE_STATES_WAITING",
        "onConflict": "UNIQUE_CONFLICT_REJECT",
    }
    assert job["concurrency"] == {"key": "c", "limit": 1, "order": "KEY_ORDER_SKIP_FAILED"}
    taken = await millrace.run(*create, *unique)
    assert taken.code == 64 + 6
    assert f"job {job['jobId']}" in taken.stderr


async def test_a_job_that_existed_is_told_from_a_new_one(millrace: CommandLine) -> None:
    create = ("jobs", "create", "toy:add", *FUTURE, "--unique-key", "k", "--input")
    new = (await millrace.succeed(*create, '{"a": 1}', "--json")).line
    assert (new["alreadyExisted"], new["replaced"]) == (False, False)
    existing = ('{"a": 2}', "--on-conflict", "return-existing")
    returned = (await millrace.succeed(*create, *existing, "--json")).line
    assert (returned["jobId"], returned["alreadyExisted"], returned["input"]) == (
        new["jobId"],
        True,
        {"a": 1},
    )
    said = (await millrace.succeed(*create, *existing)).stdout
    assert said.endswith(f"existing job {new['jobId']}; nothing was created\n")
    replacing = ('{"a": 3}', "--on-conflict", "replace")
    said = (await millrace.succeed(*create, *replacing)).stdout
    assert said.endswith(f"replaced the input and options of {new['jobId']}; no other job was created\n")
    now = ("jobs", "create", "toy:add", "--unique-key", "k", "--input", *replacing, "--watch", "--json")
    first, *_, last = (await millrace.succeed(*now)).lines
    assert (first["jobId"], first["replaced"], first["alreadyExisted"]) == (new["jobId"], True, False)
    assert (last["jobId"], last["output"]) == (new["jobId"], {"sum": 3})
    assert "alreadyExisted" not in (await millrace.succeed("jobs", "get", new["jobId"], "--json")).line
    another = (await millrace.succeed(*create, '{"a": 4}')).stdout
    assert another.splitlines()[3].split() == ["status", "PENDING"]
    assert "existing" not in another
    assert "replaced" not in another


async def test_lengths_shorter_than_a_second_arrive(millrace: CommandLine) -> None:
    retry = ("--retry-delay", "0.5s", "--retry-max-delay", "1m")
    create = ("jobs", "create", "toy:add", "--input", '{"a": 1}', "--timeout", "250ms", *retry)
    job = (await millrace.succeed(*create, "--json")).line
    assert (job["timeout"], job["retryPolicy"]["initialDelay"]) == ("0.250s", "0.500s")
    too_long = await millrace.run(*create, "--retry-delay", "2m")
    assert too_long.code == 64 + 3
    assert "  retry_policy.initial_delay: must not be longer than max_delay\n" in too_long.stderr


async def test_validating_creates_nothing(millrace: CommandLine) -> None:
    add = ("jobs", "create", "toy:add", "--validate-only", "--input")
    assert (await millrace.succeed(*add, '{"a": 1}')).stdout == "valid; nothing was created\n"
    assert (await millrace.succeed(*add, '{"a": 1}', "--json")).line == {"valid": True}
    refused = await millrace.run(*add, '{"a": "one"}')
    assert refused.code == 64 + 3
    assert "  input.a: " in refused.stderr
    assert (await millrace.succeed("jobs", "list", "--json")).lines == []


async def test_a_job_says_why_it_waits(millrace: CommandLine) -> None:
    waiting = (await millrace.succeed("jobs", "create", "toy:wait", *FUTURE, "--json")).line["jobId"]
    details = (await millrace.succeed("jobs", "get", waiting, "--json")).line
    assert details["waitingReason"]["cause"] == "WAITING_CAUSE_SCHEDULED"
    assert details["waitingReason"]["until"] == "2099-01-01T00:00:00Z"
    shown = (await millrace.succeed("jobs", "get", waiting)).stdout
    assert details["waitingReason"]["message"] in shown


async def test_a_job_says_what_became_of_its_attempts(millrace: CommandLine) -> None:
    failed = await millrace.run("jobs", "create", "toy:fail", "--watch", "--json")
    job_id = failed.lines[-1]["jobId"]
    assert (await millrace.succeed("jobs", "get", job_id, "--json")).line["attemptCounts"]["failed"] == 1
    assert "1 failed" in (await millrace.succeed("jobs", "get", job_id)).stdout
    [attempt] = (await millrace.succeed("jobs", "attempts", job_id, "--json")).lines
    assert (attempt["attempt"], attempt["outcome"]) == (1, "ATTEMPT_OUTCOME_FAILED")
    heading, row = (await millrace.succeed("jobs", "attempts", job_id)).stdout.splitlines()
    assert heading.split() == ["ATTEMPT", "OUTCOME", "STARTED", "ENDED", "WORKER", "ERROR"]
    assert row.startswith("1        FAILED")
    assert row.endswith("OUT_OF_STOCK: none left")
    assert len(re.findall(r" \d\d:\d\d:\d\d\.\d{3} ", row)) == 2
    listed = ("jobs", "list", "--json", "--error-code")
    assert [job["jobId"] for job in (await millrace.succeed(*listed, "OUT_OF_STOCK")).lines] == [job_id]
    assert (await millrace.succeed(*listed, "TIMEOUT")).lines == []


async def test_many_jobs_are_cancelled_and_tried_again(millrace: CommandLine) -> None:
    for number in range(3):
        await millrace.succeed(
            "jobs", "create", "toy:add", "--input", '{"a": 1}', *FUTURE, "--created-by", f"user-{number % 2}"
        )
    cancel = ("jobs", "cancel-many", "--created-by", "user-0")
    dry = await millrace.succeed(*cancel, "--dry-run")
    assert dry.stdout == "would cancel 2 waiting and 0 running jobs\n"
    assert (
        await millrace.succeed(*cancel)
    ).stdout == "cancelled 2 waiting jobs; 0 running ones are cancelling\n"
    everything = (await millrace.succeed("jobs", "cancel-many", "--all", "--json")).line
    assert everything == {"cancelled": 1, "cancelling": 0, "more": False}
    assert (await millrace.succeed("jobs", "retry-many", "--all")).stdout == "trying 0 jobs again\n"
    refused = await millrace.run("jobs", "retry-many", "--status", "completed")
    assert refused.code == 64 + 3
    assert (
        "filter.statuses[0]: is completed: only a failed or cancelled job can be tried again"
        in refused.stderr
    )
    again = await millrace.succeed("jobs", "retry-many", "--status", "cancelled", "--json")
    assert again.line == {"retried": 3, "conflicts": 0, "more": False}
    assert (await millrace.succeed("jobs", "list", "--status", "cancelled", "--json")).lines == []


async def test_a_key_that_nothing_blocks_is_said_to_be_free(millrace: CommandLine) -> None:
    assert (
        await millrace.succeed("jobs", "unblock-key", "toy:add", "k")
    ).stdout == "nothing blocked this key\n"
    assert (await millrace.succeed("jobs", "unblock-key", "toy:add", "k", "--json")).line == {"jobId": ""}


async def test_a_type_is_paused_limited_and_resumed(millrace: CommandLine) -> None:
    assert (await millrace.succeed("types", "pause", "toy:add", "--json")).line["paused"] is True
    job = (await millrace.succeed("jobs", "create", "toy:add", "--input", '{"a": 1}', "--json")).line
    waiting = (await millrace.succeed("jobs", "get", job["jobId"], "--json")).line["waitingReason"]
    assert waiting["cause"] == "WAITING_CAUSE_TYPE_PAUSED"
    assert "paused" in (await millrace.succeed("types", "list")).stdout
    assert (await millrace.succeed("types", "pause", "toy:add")).stdout == "toy:add is paused\n"
    assert (await millrace.succeed("types", "resume", "toy:add")).stdout == "toy:add is not paused\n"
    limits = ("types", "limits", "toy:add", "--max-running", "3", "--rate-per-org", "100/1m,smooth")
    limited = (await millrace.succeed(*limits, "--json")).line["limits"]
    assert limited == {
        "maxRunning": 3,
        "ratePerOrganisation": {"count": 100, "period": "60s", "smooth": True},
    }
    said = "3 running, 100 starts in 60 s (smooth) of one organisation"
    assert said in (await millrace.succeed("types", "list")).stdout
    assert (await millrace.succeed("jobs", "watch", job["jobId"])).stdout.endswith('{"sum": 1}\n')
    others = "those not given are as its handler says"
    assert (await millrace.succeed(*limits)).stdout == f"toy:add: {said}; {others}\n"
    assert (await millrace.succeed("types", "limits", "toy:add")).stdout == f"toy:add: {said}\n"
    shown = (await millrace.succeed("types", "show", "toy:add")).stdout.splitlines()
    assert shown[0].split() == ["type", "toy:add"]
    assert any(line.startswith("limits") and line.endswith(said) for line in shown)
    assert (await millrace.succeed("types", "show", "toy:add", "--json")).line["limits"] == limited
    fewer = await millrace.succeed("types", "limits", "toy:add", "--max-running", "2")
    assert fewer.stdout == f"toy:add: 2 running; {others}\n"
    reset = await millrace.succeed("types", "limits", "toy:add", "--reset")
    assert reset.stdout == "toy:add: no limits; all are as its handler says\n"
    assert (await millrace.succeed("types", "limits", "toy:add", "--json")).line["limits"] == {}
    for unknown in ("pause", "show", "limits"):
        assert (await millrace.run("types", unknown, "toy:none")).code == 64 + 5


async def test_an_organisation_keeps_the_limits_that_are_not_given(millrace: CommandLine) -> None:
    await millrace.succeed("orgs", "limits", "globex", "--max-running", "5", "--rate", "10/s")
    changed = await millrace.succeed("orgs", "limits", "globex", "--weight", "3", "--json")
    expected = {"weight": 3, "maxRunning": 5, "rate": {"count": 10, "period": "1s", "smooth": False}}
    assert changed.line == {"orgId": "globex", "paused": False, "limits": expected}
    assert (await millrace.succeed("orgs", "pause", "globex", "--json")).line["paused"] is True
    shown = (await millrace.succeed("orgs", "show", "globex")).stdout
    assert "weight 3, 5 running, 10 starts in 1 s" in shown
    assert (await millrace.succeed("orgs", "resume", "globex", "--json")).line["paused"] is False


async def test_the_health_of_the_queue_is_shown(millrace: CommandLine) -> None:
    assert "no job waits or runs" in (await millrace.succeed("queue", "health")).stdout
    await millrace.succeed("jobs", "create", "toy:wait", *FUTURE)
    lines = (await millrace.succeed("queue", "health")).stdout.splitlines()
    assert lines[0].split()[:4] == ["TYPE", "ORGANISATION", "READY", "HELD"]
    assert lines[1].split()[:6] == ["toy:wait", "acme", "0", "0", "1", "0"]
    assert any(line.split()[0] == "jobs" for line in lines if line)
    [depth] = (await millrace.succeed("queue", "health", "--type", "toy:wait", "--json")).line["depths"]
    assert (depth["orgId"], depth["scheduled"]) == ("acme", 1)
    elsewhere = (await millrace.succeed("queue", "health", "--only-org", "globex", "--json")).line
    assert elsewhere["depths"] == []
