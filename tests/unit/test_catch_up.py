"""What a scheduler decides about a due time, compared with a walk over every firing."""

from dataclasses import replace
from datetime import timedelta
from itertools import takewhile

from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.scheduler.v1 import schedule_pb2
from millrace_database.schedules_repository import ScheduleRecord
from millrace_scheduler.catch_up import MAX_MADE_UP_FOR, MAX_MISSED_TIMES, decide
from millrace_scheduler.fire_times import FireTime, next_fire, stored_fire, upcoming
from millrace_scheduler.recurrence_messages import recurrence_to_json
from millrace_scheduler.stored_schedules import timing_of
from support.schedule_records import SCHEDULE, START
from support.scheduler_api import cron, every

_MINUTE = timedelta(minutes=1)
_RECURRENCES: st.SearchStrategy[schedule_pb2.Recurrence] = st.one_of(
    st.integers(30, 7200).map(every),
    st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "15 */2 * * *"]).map(cron),
)


@st.composite
def _due(draw: st.DrawFn) -> ScheduleRecord:
    """A schedule that stands before its first time, which has come."""
    schedule = replace(
        SCHEDULE,
        recurrence_json=recurrence_to_json(draw(_RECURRENCES)),
        jitter_seconds=draw(st.sampled_from([0, 0, 5, 600, 7200])),
        end_at=draw(st.sampled_from([None, None, START + timedelta(hours=14)])),
        catch_up_policy=draw(st.sampled_from(["run_once", "run_all", "skip"])),
    )
    if schedule.catch_up_policy == "run_all":
        schedule = replace(schedule, catch_up_seconds=draw(st.integers(1, 20 * 3600)))
    first = next(upcoming(timing_of(schedule), START - _MINUTE, 1))
    return replace(
        schedule,
        next_run_at=first.fires,
        next_scheduled_time=first.scheduled,
        read_at=first.fires + timedelta(seconds=draw(st.integers(0, 30 * 3600))),
    )


def _firings(schedule: ScheduleRecord) -> list[FireTime]:
    """Every firing from where a schedule stands to the first one ahead of now."""
    timing = timing_of(schedule)
    assert schedule.next_run_at is not None
    current = stored_fire(timing, schedule.next_run_at, schedule.next_scheduled_time)
    following = list(upcoming(timing, current.scheduled, 5000, not_before=current.fires))
    due = list(takewhile(lambda one: one.fires <= schedule.read_at, following))
    return [current, *due, *following[len(due) : len(due) + 1]]


def _tolerance(schedule: ScheduleRecord) -> timedelta:
    return max(_MINUTE, timedelta(seconds=schedule.catch_up_seconds or 0))


@given(_due())
@settings(max_examples=300, deadline=None)
def test_a_decision_is_that_of_a_walk_over_every_firing(schedule: ScheduleRecord) -> None:
    firings = _firings(schedule)
    current, *later = firings
    if schedule.catch_up_policy == "run_once":
        fires = True
        late = schedule.read_at - current.fires > _MINUTE
        skipped = [one for one in later if one.fires <= schedule.read_at and late]
    else:
        earliest = schedule.read_at - _tolerance(schedule)
        due = [one for one in firings if one.fires <= schedule.read_at]
        kept = due[-MAX_MADE_UP_FOR:] if schedule.catch_up_policy == "run_all" else due
        kept = [one for one in kept if one.fires >= earliest]
        fires = current in kept
        skipped = [] if fires else [one for one in due if one not in kept]
    rest = [one for one in firings if one not in skipped and not (fires and one is current)]

    decision = decide(schedule, tried_before=False)

    assert decision.current == current
    assert decision.fires == fires
    assert (decision.upcoming and decision.upcoming.scheduled) == (rest[0].scheduled if rest else None)
    if decision.upcoming and decision.upcoming.fires > schedule.read_at:
        assert decision.upcoming == rest[0]
    assert decision.missed_count == len(skipped)
    assert list(decision.missed) == [one.scheduled for one in skipped[-MAX_MISSED_TIMES:]]


@given(_due())
@settings(deadline=None)
def test_what_was_tried_before_is_fired_however_late(schedule: ScheduleRecord) -> None:
    ended = replace(schedule, max_runs=1, fired_count=1)
    assert decide(schedule, tried_before=True).fires
    assert decide(ended, tried_before=True).fires
    assert not decide(ended, tried_before=False).fires


def test_an_outage_of_years_is_decided_about_by_arithmetic() -> None:
    schedule = replace(
        SCHEDULE,
        recurrence_json=recurrence_to_json(every(1)),
        read_at=START + timedelta(days=3650),
    )
    decision = decide(schedule, tried_before=False)
    assert decision.missed_count == 3650 * 86400
    assert len(decision.missed) == MAX_MISSED_TIMES


def test_times_that_their_jitter_brings_together_are_all_fired() -> None:
    schedule = replace(SCHEDULE, recurrence_json=recurrence_to_json(every(60)), jitter_seconds=600)
    at = next_fire(timing_of(schedule), START - _MINUTE)
    for _ in range(300):
        assert at is not None
        due = replace(
            schedule,
            next_run_at=at.fires,
            next_scheduled_time=at.scheduled,
            # A scheduler is a little late each time.
            read_at=at.fires + timedelta(milliseconds=20),
        )
        decision = decide(due, tried_before=False)
        assert (decision.fires, decision.missed_count) == (True, 0)
        at = decision.upcoming


def test_within_a_minute_no_time_is_missed() -> None:
    schedule = replace(
        SCHEDULE,
        recurrence_json=recurrence_to_json(every(1)),
        next_run_at=START,
        read_at=START + _MINUTE,
    )
    decision = decide(schedule, tried_before=False)
    assert (decision.fires, decision.missed_count) == (True, 0)
    assert decision.upcoming is not None
    assert decision.upcoming.scheduled == START + timedelta(seconds=1)

    decision = decide(replace(schedule, read_at=START + _MINUTE + timedelta(seconds=1)), tried_before=False)
    assert (decision.fires, decision.missed_count) == (True, 61)
