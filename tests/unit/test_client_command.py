"""How `millrace` reads what people type; nothing is called."""

import time
import zoneinfo
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from millrace_client import (
    Cron,
    Daily,
    Every,
    JobTypeLimits,
    LastDay,
    Monthly,
    NthWeekday,
    Once,
    OrganisationLimits,
    RateLimit,
    UniqueConflict,
    Weekday,
    Weekly,
)
from millrace_client.command import parse
from millrace_client.command.limit_text import limit_text
from millrace_client.command.main import build_app
from millrace_client.command.output import exact_time, plain
from millrace_client.command.schedule_details import local_time
from millrace_client.command.schedule_timing_options import ScheduleTimingOptions

CREATE = ["--org", "acme", "schedules", "create", "name", "noop", "--daily", "09:30"]
MICROSECOND = timedelta(microseconds=1)
LENGTHS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Usage: millrace"),
        (["--org", "acme"], "Missing command"),
        (["jobs", "--org", "acme"], "Missing command"),
        (["nope"], "No such command 'nope'"),
        (["jobs", "nope"], "No such command 'nope'"),
        (["jobs", "list"], "give --org, or set MILLRACE_ORG_ID"),
        (["--org", "acme", "jobs", "create"], "Missing argument 'TYPE'"),
        (["--org", "acme", "jobs", "create", "noop", "--input", "{"], "not JSON"),
        (["--org", "acme", "jobs", "create", "noop", "--input", "[1]"], "not a JSON object"),
        (["--org", "acme", "jobs", "create", "noop", "--input", "[" * 100_000], "not JSON"),
        (["--org", "acme", "jobs", "create", "noop", "--input", '{"a": NaN}'], "JSON compliant"),
        (["--org", "acme", "jobs", "create", "noop", "--metadata", '{"a": 9007199254740993}'], "beyond 2^53"),
        (["--org", "acme", "jobs", "create", "noop", "--priority", "99999999999"], "out of range"),
        (["--org", "acme", "jobs", "create", "noop", "--input", "@/no/such/file"], "No such file"),
        (["--org", "acme", "jobs", "create", "noop", "--run-at", "soon"], "not a time"),
        (["--org", "acme", "jobs", "create", "noop", "--priority", "high"], "'--priority'"),
        (["--org", "acme", "jobs", "list", "--status", "done"], "none of PENDING, PROCESSING"),
        (["--org", "acme", "jobs", "create", "noop", "--delay", "soon"], "not a length of time"),
        (["jobs", "--org", "acme", "create", "noop", "--delay", "1h", "--retry-delay", "5us"], "'--retry-delay'"),
        (["--org", "acme", "jobs", "create", "noop", "--unique-key", "k", "--unique-states", "x"], "none of WAITING, RUNNING"),
        (["--org", "acme", "jobs", "create", "noop", "--throttle", "5m"], "--unique-key"),
        (["--org", "acme", "jobs", "create", "noop", "--key-order", "skip-failed"], "--concurrency-key"),
        (["--org", "acme", "jobs", "create", "noop", "--watch", "--validate-only"], "creates none"),
        (["--org", "acme", "jobs", "cancel-many"], "give at least one filter, or --all"),
        (["--org", "acme", "jobs", "retry-many", "--dry-run"], "give at least one filter, or --all"),
        (["--org", "acme", "jobs", "cancel-many", "--all", "--type", "noop"], "give at least one filter, or --all"),
        (["--org", "acme", "jobs", "cancel-many", "--status", "unknown"], "none of PENDING, PROCESSING"),
        (["types", "limits", "noop", "--reset", "--max-running", "1"], "give it, or limits, and not both"),
        (["types", "limits", "noop", "--rate", "fast"], "not a rate"),
        (["workers", "nope"], "No such command 'nope'"),
        (["orgs", "limits", "acme"], "give at least one of --weight"),
        (["orgs", "pause"], "Missing argument 'ORG_ID'"),
        (["--org", "acme", "files", "upload", "-"], "standard input needs a name"),
        (["--org", "acme", "schedules", "create", "name", "noop"], "give exactly one of"),
        (["--org", "acme", "schedules", "create", "n", "noop", "--weekly", "mon"], "not days and a time"),
        (["--org", "acme", "schedules", "create", "n", "noop", "--daily", "9:30", "--cron", "@daily"], "'--daily'"),
        (["--org", "acme", "schedules", "create", "n", "noop", "--daily", "09:30", "--cron", "@daily"], "exactly one"),
        ([*CREATE, "--overlap", "never"], "none of ALLOW, SKIP, BUFFER_ONE, CANCEL_RUNNING"),
        ([*CREATE, "--webhook-secret", "whsec_1"], "is needed by --webhook-secret"),
        ([*CREATE, "--webhook", "https://a", "--webhook-secret", "@/no/such/file"], "cannot read /no/such/file"),
        ([*CREATE, "--max-runs", "3000000000"], "'--max-runs'"),
        ([*CREATE, "--pause-after-failed-runs", "3000000000"], "'--pause-after-failed-runs'"),
        (["--org", "acme", "schedules", "create", "n", "noop", "--monthly", "0 09:00"], "1 to 31"),
        (["--org", "acme", "schedules", "create", "n", "noop", "--once", "2099-01-01T09:00", "--time-zone", "X/Y"], "for --time-zone: unknown time zone 'X/Y'"),
        (["--org", "acme", "schedules", "list", "--active", "--inactive"], "give at most one of --active, --inactive"),
        ([*CREATE, "--email-attach"], "more about e-mails"),
        ([*CREATE, "--email-subject", "a", "--store", "a"], "more about e-mails"),
        ([*CREATE, "--download", "--store", "a"], "give at most one of --download"),
        ([*CREATE, "--deliver-failures"], "is of use with"),
        (["--org", "acme", "schedules", "update", "s"], "give something to change"),
        (["--org", "acme", "schedules", "update", "s", "--if-version", "3"], "give something to change"),
        (["--org", "acme", "schedules", "update", "s", "--clear", "name"], "none of INPUT, METADATA"),
        (["--org", "acme", "schedules", "update", "s", "--download", "--clear", "delivery"], "set and unset"),
        (["--org", "acme", "schedules", "update", "s", "--daily", "09:30", "--every", "1m"], "exactly one"),
        (["--org", "acme", "schedules", "preview"], "give exactly one of"),
        (["--org", "acme", "schedules", "preview", "s", "--daily", "09:30"], "and not both"),
        (["--org", "acme", "schedules", "preview", "s", "--count", "1001"], "less than or equal to 1000"),
        (["--org", "acme", "schedules", "backfill", "s", "--from", "2026-01-01"], "Missing option '--to'"),
        (["system-schedules", "run"], "Missing argument 'TYPE'"),
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_2_and_says_what_is_expected(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.delenv("MILLRACE_ORG_ID", raising=False)
    outcome = CliRunner(env={"COLUMNS": "200"}).invoke(build_app(), arguments, prog_name="millrace")
    assert outcome.exit_code == 2
    assert said in outcome.output


@pytest.mark.parametrize(
    ("read", "text", "recurrence"),
    [
        (parse.daily, "09:30", Daily("09:30")),
        (parse.weekly, "mon,Friday 09:30", Weekly([Weekday.MONDAY, Weekday.FRIDAY], "09:30")),
        (parse.monthly, "31 09:30:15", Monthly(31, "09:30:15")),
        (parse.monthly, "last 09:30", Monthly(LastDay(), "09:30")),
        (parse.monthly, "2 tue 09:30", Monthly(NthWeekday(2, Weekday.TUESDAY), "09:30")),
        (parse.monthly, "last Friday 09:30", Monthly(NthWeekday(-1, Weekday.FRIDAY), "09:30")),
        (parse.every, "1d2h30m15s", Every(timedelta(days=1, hours=2, minutes=30, seconds=15))),
        (parse.once, "2099-01-31T09:30:00+01:00", Once(datetime(2099, 1, 31, 8, 30, tzinfo=UTC))),
        (parse.cron, "*/5 8-18 * * mon-fri", Cron("*/5 8-18 * * mon-fri")),
    ],
)  # fmt: skip
def test_a_recurrence_is_read_from_its_option(read: object, text: str, recurrence: object) -> None:
    assert callable(read)
    assert read(text) == recurrence


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (parse.daily, "9:30"),
        (parse.weekly, "mo 09:30"),
        (parse.weekly, "monday"),
        (parse.weekly, " 09:30"),
        (parse.monthly, "first 09:30"),
        (parse.monthly, "2nd tue 09:30"),
        (parse.monthly, "2 tu 09:30"),
        (parse.monthly, "0 09:30"),
        (parse.monthly, "32 09:30"),
        (parse.monthly, "0 tue 09:30"),
        (parse.monthly, "6 tue 09:30"),
        (parse.monthly, "last"),
        (parse.monthly, "31"),
        (parse.every, "15"),
        (parse.every, ""),
        (parse.every, "1.s"),
        (parse.every, ".5s"),
        (parse.every, "1m 30s"),
        (parse.every, "-1s"),
        (parse.every, "9" * 400 + "s"),
        (parse.every, "9999999999d"),
        (parse.once, "tomorrow"),
    ],
)
def test_a_recurrence_that_means_nothing_is_refused(read: object, text: str) -> None:
    assert callable(read)
    with pytest.raises(typer.BadParameter):
        read(text)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("0.5s", timedelta(milliseconds=500)),
        ("1.5h", timedelta(minutes=90)),
        ("1m30s250ms", timedelta(seconds=90, milliseconds=250)),
        ("5m5ms", timedelta(minutes=5, milliseconds=5)),
        ("0.000001s", timedelta(microseconds=1)),
        ("0s", timedelta()),
    ],
)
def test_a_length_of_time_may_be_shorter_than_a_second(text: str, length: timedelta) -> None:
    assert parse.length(text) == length


@given(
    st.timedeltas(min_value=timedelta(), max_value=timedelta(days=3650)),
    st.sampled_from([("d", "h", "m", "s"), ("h", "s"), ("s",), ("ms",)]),
)
def test_any_length_is_read_as_it_was_written(length: timedelta, units: tuple[str, ...]) -> None:
    *coarse, finest = units
    text, left = "", length
    for unit in coarse:
        count, left = divmod(left, LENGTHS[unit])
        text += f"{count}{unit}"
    text += f"{Decimal(left // MICROSECOND) / (LENGTHS[finest] // MICROSECOND):f}{finest}"
    assert parse.length(text) == length


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/1m", RateLimit(100, timedelta(minutes=1))),
        ("5/s", RateLimit(5, timedelta(seconds=1))),
        ("5/250ms", RateLimit(5, timedelta(milliseconds=250))),
        ("5/ms", RateLimit(5, timedelta(milliseconds=1))),
        ("7/1h30m,smooth", RateLimit(7, timedelta(minutes=90), smooth=True)),
        ("0", RateLimit(0)),
    ],
)
def test_a_rate_is_read_from_its_option(text: str, rate: RateLimit) -> None:
    assert parse.rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "100", "100/", "/s", "100/1y", "-1/s", "100/s,fast", "1.5/s", "9/9999999999d"]
)
def test_a_rate_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse.rate(text)


@pytest.mark.parametrize("text", ["return-existing", "RETURN_EXISTING", "Return_existing"])
def test_a_word_of_several_is_read_in_any_form(text: str) -> None:
    assert parse.member(UniqueConflict)(text) is UniqueConflict.RETURN_EXISTING


def test_limits_are_said_in_few_words() -> None:
    rate = RateLimit(5, timedelta(milliseconds=500), smooth=True)
    assert limit_text(JobTypeLimits(3, 0, RateLimit(0), rate)) == (
        "3 running, 5 starts in 0.5 s (smooth) of one organisation"
    )
    assert limit_text(JobTypeLimits()) == ""
    assert limit_text(OrganisationLimits(2, 10)) == "weight 2, 10 running"


def test_a_time_without_a_zone_is_this_machines() -> None:
    assert parse.moment("2027-01-31T09:30") == datetime(2027, 1, 31, 9, 30).astimezone()


@pytest.mark.parametrize(
    ("text", "zone", "moment"),
    [
        ("2027-03-27T09:30", "Europe/Oslo", datetime(2027, 3, 27, 8, 30, tzinfo=UTC)),
        ("2027-03-28T09:30", "Europe/Oslo", datetime(2027, 3, 28, 7, 30, tzinfo=UTC)),
        ("2027-03-27T09:30Z", "Europe/Oslo", datetime(2027, 3, 27, 9, 30, tzinfo=UTC)),
        ("2027-03-27T09:30", None, datetime(2027, 3, 27, 9, 30).astimezone()),
    ],
)
def test_a_time_without_a_zone_is_in_the_zone_of_the_schedule(
    text: str, zone: str | None, moment: datetime
) -> None:
    when = ScheduleTimingOptions(
        once=parse.once(text),
        time_zone=zone,
        start_at=parse.clock_time(text),
        end_at=parse.clock_time(text),
    )
    assert when.recurrence() == Once(moment)
    assert (when.start_at, when.end_at) == (moment, moment)


def test_the_first_time_there_is_has_no_place_in_a_zone_ahead() -> None:
    with pytest.raises(typer.BadParameter, match="not a time"):
        ScheduleTimingOptions(start_at=datetime.min, time_zone="Asia/Tokyo")  # noqa: DTZ901


def test_text_of_others_moves_no_cursor() -> None:
    assert plain("done\x1b[2J\r\nreally\x07") == "done [2J  really "
    assert plain({"a": 1}) == '{"a": 1}'
    assert plain(None) == ""
    assert plain(timedelta(days=1, seconds=90, microseconds=5)) == "1 day, 0:01:30"
    assert plain(timedelta(milliseconds=250)) == "0:00:00.25"
    assert plain(timedelta(seconds=10, microseconds=5)) == "0:00:10"
    assert plain(timedelta(minutes=1, milliseconds=250)) == "0:01:00"


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_the_first_and_the_last_time_there_is_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert plain(datetime.max.replace(tzinfo=UTC)).startswith("9999-12-31 ")
        assert plain(datetime.min.replace(tzinfo=UTC)).startswith("0001-01-01 ")
        assert exact_time(datetime.max.replace(tzinfo=UTC)).startswith("9999-12-31 ")
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("Europe/Oslo", "Sun 2027-03-28 03:30:00+02:00 Europe/Oslo"),
        ("America/New_York", "Sat 2027-03-27 21:30:00-04:00 America/New_York"),
        ("UTC", "Sun 2027-03-28 01:30:00+00:00 UTC"),
        ("", "Sun 2027-03-28 01:30:00+00:00 UTC"),
        ("No/Such_Zone", "Sun 2027-03-28 01:30:00+00:00 UTC"),
        ("../etc/passwd", "Sun 2027-03-28 01:30:00+00:00 UTC"),
    ],
)
def test_a_time_is_shown_as_the_clocks_of_its_zone_show_it(zone: str, shown: str) -> None:
    assert local_time(datetime(2027, 3, 28, 1, 30, tzinfo=UTC), zone) == shown


def test_the_rules_of_a_zone_are_not_those_of_the_machine(tmp_path: Path) -> None:
    outdated = resources.files("tzdata").joinpath("zoneinfo", "UTC").read_bytes()
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Berlin").write_bytes(outdated)
    zoneinfo.reset_tzpath([str(tmp_path)])
    ZoneInfo.clear_cache()
    try:
        shown = local_time(datetime(2027, 3, 28, 1, 30, tzinfo=UTC), "Europe/Berlin")
    finally:
        zoneinfo.reset_tzpath()
        ZoneInfo.clear_cache()
    assert shown == "Sun 2027-03-28 03:30:00+02:00 Europe/Berlin"


def test_a_late_firing_is_shown_to_the_millisecond() -> None:
    moment = datetime(2027, 3, 28, 1, 30, 7, 125_000, tzinfo=UTC)
    assert local_time(moment, "") == "Sun 2027-03-28 01:30:07.125+00:00 UTC"


def test_a_text_may_come_from_a_file_whose_last_end_of_line_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"whsec_1\r\n")
    assert parse.text_content(f"@{tmp_path}/secret") == "whsec_1"
    assert parse.text_content("as it is\n") == "as it is\n"
    (tmp_path / "secret").write_bytes(b"\xff")
    with pytest.raises(typer.BadParameter, match="not UTF-8"):
        parse.text_content(f"@{tmp_path}/secret")


def test_help_says_what_every_command_of_the_server_does() -> None:
    shown = CliRunner().invoke(build_app(), ["--help"]).output
    assert " Server " in shown
    assert "From millrace_" not in shown
