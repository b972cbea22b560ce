import asyncio
import math
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel

from millrace_worker import Backoff, JobContext, Registry
from millrace_worker.context import ProgressUpdate
from millrace_worker.lanes import MAX_CLAIM, PREFETCH_SECONDS, Lanes, RecentCount
from millrace_worker.output import MAX_OUTPUT_BYTES, InvalidOutputError, encode_output
from millrace_worker.threads import ThreadPool


@given(attempt=st.integers(1, 10_000), jitter=st.floats(0, 1), factor=st.floats(1, 10))
def test_a_wait_grows_with_the_attempts_up_to_the_cap_give_or_take_the_jitter(
    attempt: int, jitter: float, factor: float
) -> None:
    backoff = Backoff(base=timedelta(seconds=1), factor=factor, cap=timedelta(minutes=5), jitter=jitter)
    try:
        plain = min(factor ** (attempt - 1), 300.0)
    except OverflowError:
        plain = 300.0
    seconds = backoff.delay(attempt).total_seconds()
    assert plain * (1 - jitter) - 1e-5 <= seconds <= plain * (1 + jitter) + 1e-5


def test_the_default_backoff_doubles_from_a_second_to_five_minutes() -> None:
    waits = [Backoff(jitter=0).delay(attempt).total_seconds() for attempt in (1, 2, 3, 9, 10, 99)]
    assert waits == [1, 2, 4, 256, 300, 300]


@pytest.mark.parametrize(
    "settings",
    [{"base": timedelta(seconds=-1)}, {"cap": timedelta(seconds=-1)}, {"factor": 0.5}, {"jitter": 1.5}],
)
def test_an_impossible_backoff_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Backoff(**settings)


class Model(BaseModel):
    at: datetime


class Listing(RootModel[list[int]]):
    pass


@dataclass
class Data:
    id: UUID
    price: Decimal


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        ({}, {}),
        (Model(at=datetime(2026, 1, 2, tzinfo=UTC)), {"at": "2026-01-02T00:00:00Z"}),
        (Data(UUID(int=1), Decimal("1.50")), {"id": str(UUID(int=1)), "price": "1.50"}),
        ({"nested": [Data(UUID(int=1), Decimal(2))]}, {"nested": [{"id": str(UUID(int=1)), "price": "2"}]}),
        ({"nan": math.nan, "inf": math.inf}, {"nan": None, "inf": None}),
        ({"backslash": "\\u0000"}, {"backslash": "\\u0000"}),
        ({1: "key"}, {"1": "key"}),
    ],
)
def test_an_object_is_stored_as_json(value: object, expected: object) -> None:
    assert orjson.loads(encode_output(value)) == expected


def test_large_numbers_keep_their_digits() -> None:
    assert encode_output({"big": 2**70}) == '{"big":1180591620717411303424}'


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        3,
        "text",
        [1],
        (1, 2),
        Data,
        Listing([1]),
        {"a": object()},
        {"a": "\0"},
        {"\0": "a"},
        {"a": "\ud800"},
        {"a": b"\xff"},
        {"a": "x" * MAX_OUTPUT_BYTES},
        _deep(33),
    ],
)
def test_what_is_no_object_or_cannot_be_stored_is_refused(value: object) -> None:
    with pytest.raises(InvalidOutputError):
        encode_output(value)


def test_an_object_within_the_limits_is_accepted() -> None:
    assert len(encode_output({"a": "x" * (MAX_OUTPUT_BYTES - 8)})) == MAX_OUTPUT_BYTES
    assert orjson.loads(encode_output(_deep(32))) == _deep(32)


def test_later_progress_goes_on_top_of_earlier() -> None:
    earlier = ProgressUpdate(percent=1, message="a", processed_items=5)
    later = ProgressUpdate(percent=2, total_items=9)
    assert later.merged_into(earlier) == ProgressUpdate(
        percent=2, message="a", processed_items=5, total_items=9
    )
    assert later.merged_into(None) is later


def test_recent_events_are_forgotten_after_two_intervals() -> None:
    now = [0.0]
    count = RecentCount(lambda: now[0])
    for _ in range(3):
        count.add()
    assert count.value() == 3
    now[0] = PREFETCH_SECONDS * 1.5
    assert count.value() == 3
    now[0] = PREFETCH_SECONDS * 2.6
    assert count.value() == 0


def _lanes(slots: int = 100, **concurrency: int) -> Lanes:
    registry = Registry()
    for name, limit in concurrency.items():

        async def handle(context: JobContext[dict[str, Any]]) -> None: ...

        registry.job_handler(f"lanes:{name}", concurrency=limit)(handle)
    return Lanes(registry, slots)


def _execution(
    lanes: Lanes, name: str, claimed_at: float = 0.0, *, tenant: str = "acme", priority: int = 0
) -> Any:
    job = SimpleNamespace(claim=SimpleNamespace(tenant=tenant, priority=priority))
    return SimpleNamespace(lane=lanes.lane(f"lanes:{name}"), job=job, claimed_at=claimed_at)


def test_an_idle_worker_wants_what_its_types_and_slots_allow() -> None:
    assert _lanes(a=3, b=5).wanted() == ({"lanes:a": 3, "lanes:b": 5}, 100)
    assert _lanes(slots=2, a=3).wanted() == ({"lanes:a": 3}, 2)
    assert _lanes(slots=10_000, a=10_000).wanted() == ({"lanes:a": MAX_CLAIM}, MAX_CLAIM)


def test_what_is_claimed_of_types_with_limits_is_no_more_than_runs_at_once() -> None:
    lanes = _lanes(slots=10, limited=6, other=20)
    for _ in range(4):
        lanes.put(_execution(lanes, "limited"))
    for _ in range(12):
        lanes.put(_execution(lanes, "other"))
    lanes.start_next()

    assert lanes.places({"lanes:limited"}) == ({"lanes:limited": 2, "lanes:other": 0}, 6)


def test_types_take_turns_and_keep_their_limits() -> None:
    lanes = _lanes(slots=4, a=2, b=5)
    jobs = {name: [_execution(lanes, name) for _ in range(5)] for name in ("a", "b")}
    for execution in jobs["a"] + jobs["b"]:
        lanes.put(execution)
    started = [lanes.start_next() for _ in range(4)]
    assert started == [jobs["a"][0], jobs["b"][0], jobs["a"][1], jobs["b"][1]]
    assert lanes.start_next() is None
    lanes.end(jobs["b"][0])
    assert lanes.start_next() is jobs["b"][2]
    lanes.end(jobs["a"][0])
    assert lanes.start_next() is jobs["a"][2]
    assert (lanes.running, lanes.waiting) == (4, 4)


def test_a_full_type_is_not_wanted_and_does_not_hold_up_another() -> None:
    lanes = _lanes(slots=10, a=1, b=1)
    first, second, other = (_execution(lanes, name) for name in ("a", "a", "b"))
    for execution in (first, second, other):
        lanes.put(execution)
    assert [lanes.start_next(), lanes.start_next(), lanes.start_next()] == [first, other, None]
    lanes.remove(second)
    assert lanes.waiting == 0
    assert lanes.wanted() == ({}, 0)
    lanes.end(other)
    assert lanes.wanted() == ({"lanes:b": 2}, 10)


def test_what_was_claimed_ahead_for_one_organisation_does_not_delay_another() -> None:
    lanes = _lanes(a=100)
    flood = [_execution(lanes, "a", tenant="flood") for _ in range(50)]
    for execution in flood:
        lanes.put(execution)
    started = [lanes.start_next() for _ in range(10)]
    small = [_execution(lanes, "a", tenant="small") for _ in range(2)]
    for execution in small:
        lanes.put(execution)
    started += [lanes.start_next() for _ in range(4)]

    assert started == [*flood[:10], small[0], flood[10], small[1], flood[11]]


def test_a_higher_priority_starts_first_and_what_was_taken_out_does_not() -> None:
    lanes = _lanes(a=100)
    first, second, urgent = (_execution(lanes, "a", priority=priority) for priority in (0, 0, 3))
    for execution in (first, second, urgent):
        lanes.put(execution)
    lanes.remove(first)

    assert [lanes.start_next() for _ in range(3)] == [urgent, second, None]


def test_what_waits_too_long_is_found_oldest_first() -> None:
    lanes = _lanes(a=1)
    old, young = _execution(lanes, "a", 1.0), _execution(lanes, "a", 2.0)
    lanes.put(old)
    lanes.put(young)
    assert lanes.claimed_until(1.5) == [old]
    assert lanes.claimed_until(2.0) == [old, young]


async def test_a_thread_hands_over_what_was_returned_or_raised() -> None:
    pool = ThreadPool(2)

    def work(value: int) -> int:
        if value < 0:
            raise StopIteration(value)
        return value + 1

    assert await pool.run(work, 1) == (2, None)
    result, error = await pool.run(work, -1)
    assert result is None
    assert isinstance(error, StopIteration)
    pool.close()


async def test_no_more_threads_are_made_than_allowed_and_they_end() -> None:
    pool = ThreadPool(2)
    seen: set[threading.Thread] = set()
    both = threading.Barrier(2, timeout=5)

    def work(_: int) -> None:
        seen.add(threading.current_thread())
        both.wait()

    await asyncio.gather(*(pool.run(work, number) for number in range(6)))
    assert len(seen) == 2
    assert all(thread.daemon for thread in seen)
    pool.close()
    for thread in seen:
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()
