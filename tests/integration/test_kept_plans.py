"""What statements touch by plans that were made when statistics said that nothing is there, once much is there.

A new installation has such statistics, and a vacuum of tables that are just empty leaves them. A connection that keeps
plans has them from then.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from millrace_database import (
    attempt_records,
    dead_letters,
    job_statements,
    spared_attempts,
    subscription_event_statements,
)
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_queue import (
    attempt_statements,
    claim_statements,
    gate_statements,
    line_statements,
    statements,
    sweep_statements,
    unique_statements,
)
from support.large_tables import filled_database

_BATCH = 20
_RUNNING = 200
_MOST_BUFFERS = 40
"""So many pages are touched at most for each row of a batch: a new entry is written to all indexes of the queue."""
_MOST_HOT_BUFFERS = 10
"""So many where no index is written."""
_ENTRIES = 60_000

_TABLES = (
    "queue",
    "queue_lines",
    "queue_types",
    "queue_tenants",
    "queue_rates",
    "queue_throttles",
    "queue_blocked_keys",
    "queue_workers",
    "jobs",
    "job_types",
    "job_attempts",
    "job_subscriptions",
)
_ID = "('01890000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid"
_WORKER = UUID("01890000-0000-7000-8000-ffffffffffff")

# Entries run, are in line, or are parked at the gate of their tenant, or of their key, of which every other one is in strict order.
# The last ones are of a type without limits.
_FILL = (
    """
INSERT INTO queue (
    id, type, tenant, max_attempts, attempt, state, rank, fence, worker_id, gated, parked_by, concurrency_key, concurrency_limit,
    key_order, unique_key, unique_while, unique_slot
)
SELECT <id>, 'type ' || CASE WHEN n > 50000 THEN 7 ELSE n % 5 END, 'tenant ' || n % 1000, 4, (kind = 'running')::integer,
    CASE WHEN kind IN ('tenant', 'key') THEN 'parked' ELSE kind END, n * 1000,
    CASE WHEN kind = 'running' THEN n END, CASE WHEN kind = 'running' THEN $2::uuid END,
    kind = 'running' AND n > <ungated>,
    CASE WHEN kind IN ('tenant', 'key') THEN kind END, CASE WHEN kind = 'key' THEN 'key ' || n END,
    CASE WHEN kind = 'key' THEN 1 END, CASE WHEN kind = 'key' AND n % 2 = 0 THEN 'skip' END,
    CASE WHEN kind = 'ready' THEN 'key ' || n END, CASE WHEN kind = 'ready' THEN 'waiting' END,
    CASE WHEN kind = 'ready' THEN 'waiting' END
FROM generate_series(1, $1::integer) AS n, LATERAL (
    SELECT CASE WHEN n <= <running> THEN 'running' ELSE (ARRAY['ready', 'tenant', 'key'])[1 + n % 3] END AS kind
) AS kind
    """,
    """
INSERT INTO queue_lines (type, priority) SELECT 'type ' || n % 300, n / 300 FROM generate_series(0, $1::integer / 20) AS n
    """,
    """
INSERT INTO queue_types (type, max_running) SELECT 'type ' || n, CASE WHEN n < 5 THEN 1000 END FROM generate_series(0, least($1::integer, 100)) AS n
    """,
    """
INSERT INTO queue_tenants (tenant, weight) SELECT 'tenant ' || n, 2 FROM generate_series(1, $1::integer) AS n
    """,
    """
INSERT INTO queue_rates (type, tenant) SELECT 'type ' || n % 5, 'tenant ' || n FROM generate_series(1, $1::integer) AS n
    """,
    """
INSERT INTO queue_blocked_keys (type, tenant, concurrency_key, id)
SELECT 'type ' || n % 5, 'tenant ' || n, 'other', <id> FROM generate_series(1, $1::integer) AS n
    """,
    """
INSERT INTO queue_throttles (unique_key, id, ends_at)
SELECT 'key ' || n, <id>, now() + interval '1 hour' FROM generate_series(1, $1::integer) AS n
    """,
    """
INSERT INTO jobs (job_id, org_id, type, status, max_attempts, attempt, request_id, created_by)
SELECT <id>, 'tenant ' || n % 1000, 'type ' || n % 5, 'processing', 4, 1, 'request ' || n, 'user ' || n % 5000
FROM generate_series(1, $1::integer) AS n
    """,
    """
INSERT INTO job_types (type, label, description, input_schema, max_attempts, timeout, concurrency, options)
SELECT 'type ' || n, '', '', '{}', 4, '1 hour', 1, '{"dead_letter_type": "dead"}'
FROM generate_series(0, least($1::integer, 100)) AS n
    """,
    """
INSERT INTO queue_workers (worker_id, lease)
SELECT CASE WHEN n = 1 THEN $2::uuid ELSE gen_random_uuid() END, interval '1 hour'
FROM generate_series(1, least($1::integer, 100)) AS n
    """,
    """
INSERT INTO job_attempts (job_id, fence, attempt, outcome)
SELECT <id>, n, 1, 'worker_lost' FROM generate_series(1, $1::integer) AS n
    """,
    """
INSERT INTO job_subscriptions (subscription_id, org_id, url, secret, event_types)
SELECT <id>, 'subscribed ' || n, 'https://example.com', 'whsec_', '{job.completed}' FROM generate_series(1, $1::integer) AS n
    """,
)


def _id(number: int) -> UUID:
    return UUID(int=_WORKER.int - 0xFFFF_FFFF_FFFF + number)


def _each(value: object) -> list[Any]:
    return [value] * _BATCH


def _numbers(kind: int) -> list[int]:
    """Return the numbers of entries that wait: 0 in line, 1 at the gate of their tenant, 2 at that of their key."""
    return [number for number in range(1000, 20_000, 97) if number % 3 == kind][:_BATCH]


def _types(numbers: list[int]) -> list[str]:
    return [f"type {number % 5}" for number in numbers]


def _tenants(numbers: list[int]) -> list[str]:
    return [f"tenant {number % 1000}" for number in numbers]


def _keys(numbers: list[int]) -> list[str]:
    return [f"key {number}" for number in numbers]


def _ids(numbers: list[int]) -> list[UUID]:
    return [_id(number) for number in numbers]


_READY, _AT_TENANT, _AT_KEY = _numbers(0), _numbers(1), _numbers(2)
_HELD = list(range(1, _BATCH + 1))
_LEASES = [_ids(_HELD), _HELD]
_SHARES = [_types(_AT_TENANT), _tenants(_AT_TENANT)]
_KEYS = [_types(_AT_KEY), _tenants(_AT_KEY), _keys(_AT_KEY)]
_FIVE = [f"type {number}" for number in range(5)]
_FOUR_EACH = [4] * 5
_COME_IN = [[new_id() for _ in _READY], _types(_READY), _tenants(_READY), _each(4), _each(0), _each(0)]
_UNIQUE = [_each("waiting"), _each("waiting")]

_STATEMENTS: dict[str, tuple[str, list[Any]]] = {
    "claim beside gates": (claim_statements.CLAIM_BESIDE_GATES, [_WORKER, _FIVE, _FOUR_EACH, _BATCH]),
    "start first": (gate_statements.START_FIRST, [_WORKER, _FIVE, _FOUR_EACH, False]),
    "candidates": (gate_statements.CANDIDATES, [_FIVE, _FOUR_EACH]),
    "left types": (gate_statements.READ_LEFT_TYPES, [_FIVE]),
    "types": (gate_statements.READ_TYPES, [_FIVE]),
    "tenants": (gate_statements.READ_TENANTS, [_tenants(_READY)]),
    "running": (gate_statements.RUNNING, [_FIVE, *_SHARES, ["tenant 1", "tenant 2"], *_KEYS, False]),
    "rates": (gate_statements.READ_RATES, [_types(_HELD), [f"tenant {number}" for number in _HELD]]),
    "let tenants go": (gate_statements.LET_TENANTS_GO, [*_SHARES, _each(1), _each(True)]),
    "let keys go": (gate_statements.LET_KEYS_GO, [*_KEYS, _each(0)]),
    "let heads go": (gate_statements.LET_HEADS_GO, [_ids(_AT_KEY)]),
    "parked": (gate_statements.PARKED_AT, [*_SHARES, *_KEYS, []]),
    "start": (gate_statements.START, [_WORKER, _ids(_READY[1:]), _ids(_READY[:1]), ["tenant"]]),
    "confirm": (statements.CONFIRM, _LEASES),
    "confirm alone": (statements.CONFIRM_ALONE, _LEASES),
    "confirm free": (statements.CONFIRM_FREE, _LEASES),
    "complete": (statements.COMPLETE, _LEASES),
    "hand back": (statements.HAND_BACK, [*_LEASES, []]),
    "cancel": (statements.CANCEL, [_ids(_HELD)]),
    "hasten": (statements.HASTEN, [_ids(_READY)[0]]),
    "cancel free": (statements.CANCEL_FREE, [_ids(_HELD)]),
    "fail": (
        attempt_statements.FAIL,
        [*_LEASES, _each(timedelta(hours=1)), _each(False), False, _each(True)],
    ),
    "snooze": (attempt_statements.SNOOZE, [*_LEASES, _each(timedelta(hours=1))]),
    "enqueue": (line_statements.ENQUEUE, [*_COME_IN, *[_each(None)] * 8]),
    "enqueue unique": (
        line_statements.ENQUEUE_UNIQUE,
        [*_COME_IN, *[_each(None)] * 5, _keys(_READY), *_UNIQUE],
    ),
    "replace": (
        line_statements.REPLACE_WAITING,
        [_ids(_READY), *_COME_IN[1:], *[_each(None)] * 5, _keys(_READY), *_UNIQUE],
    ),
    "opened rates": (sweep_statements.TAKE_OPENED_RATES, [_BATCH]),
    "idle rates": (sweep_statements.REMOVE_IDLE_RATES, [_BATCH]),
    "holders": (unique_statements.FIND_HOLDERS, [_HELD, _keys(_READY), _each("waiting")]),
    "throttles": (unique_statements.FIND_THROTTLES, [_keys(_READY)]),
    "requests": (
        job_statements.FIND_BY_REQUEST,
        [
            _HELD,
            _tenants(_READY),
            [f"request {number}" for number in _READY],
            _types(_READY),
            _each("{}"),
        ],
    ),
    "owners": (job_statements.FIND_OWNERS, [_ids(_READY)]),
    "changed jobs": (job_statements.GET_CHANGED_JOBS, [_ids(_READY), _each(0)]),
    "create jobs": (
        job_statements.CREATE_PLAIN_JOBS,
        [
            _COME_IN[0],
            _tenants(_READY),
            _types(_READY),
            *[_each("{}")] * 2,
            _each("ann"),
            _each(4),
            _each(0),
            *[_each(None)] * 5,
        ],
    ),
    "delete jobs": (job_statements.DELETE_JOBS, [_ids(_READY)]),
    "begun jobs": (job_statements.FIND_BEGUN, [_ids(_READY)]),
    "replace jobs": (
        job_statements.REPLACE_JOBS,
        [_ids(_READY), *[_each("{}")] * 2, _each(4), _each(0), *[_each(None)] * 3],
    ),
    "claim jobs": (job_statements.CLAIM_JOBS, [_WORKER, ["type 7"], [_BATCH], _BATCH]),
    "start jobs": (job_statements.START_JOBS, [_ids(_READY), _each(1), _WORKER]),
    "complete jobs": (job_statements.COMPLETE_JOBS, [_ids(_HELD), _each("{}")]),
    "complete plain jobs": (job_statements.COMPLETE_PLAIN_JOBS, [*_LEASES, _each("{}")]),
    "fail jobs": (
        job_statements.FAIL_JOBS,
        [_ids(_HELD), _each("failed"), _each(None), *[_each("ERROR")] * 2, _each(False), _each(True)],
    ),
    "cancel jobs": (job_statements.CANCEL_JOBS, [_ids(_READY)]),
    "request cancellation": (job_statements.REQUEST_CANCELLATION, [_ids(_READY)]),
    "hand back jobs": (job_statements.HAND_BACK_JOBS, [_ids(_READY)]),
    "snooze jobs": (job_statements.SNOOZE_JOBS, [_ids(_READY), _each(timedelta(hours=1)), _each(None)]),
    "report progress": (job_statements.REPORT_PROGRESS, [_ids(_HELD), _each(50), *[_each(None)] * 3]),
    "dead letters": (dead_letters._INSERT, [_ids(_READY), [new_id() for _ in _READY], 4]),
    "events": (
        subscription_event_statements.CREATE_EVENTS,
        [[new_id() for _ in _READY], _ids(_READY), _ids(_READY), 4],
    ),
    "attempts": (
        attempt_records._RECORD,
        [_ids(_READY), [-fence for fence in _HELD], _each("failed"), *[_each(None)] * 3],
    ),
    "lost leases": (attempt_records._RECORD_LOST_LEASES, [*_LEASES, "lost"]),
    "held leases": (attempt_records._STILL_HELD, _LEASES),
    "spared attempts": (spared_attempts._READ, [_ids(_READY), "STORE_UNAVAILABLE"]),
}
_WRITE_NO_INDEX = (
    "delete jobs",
    "replace jobs",
    "start jobs",
    "complete jobs",
    "request cancellation",
    "hand back jobs",
    "snooze jobs",
    "report progress",
)
_OF_JOBS = (
    "create jobs",
    "claim jobs",
    "complete plain jobs",
    "fail jobs",
    "cancel jobs",
    "dead letters",
    "events",
    "attempts",
    *_WRITE_NO_INDEX,
)
_FOUND = {
    "rates": _BATCH,
    "let tenants go": _BATCH,
    "let keys go": _BATCH // 2,
    "let heads go": _BATCH,
    "parked": 2 * _BATCH,
    "cancel free": _BATCH,
    "replace": _BATCH,
    "holders": _BATCH,
    "throttles": _BATCH,
    "requests": _BATCH,
    "owners": _BATCH,
    "changed jobs": _BATCH,
    "held leases": _BATCH,
    **dict.fromkeys(_OF_JOBS, _BATCH),
}
"""How many rows are found by statements that find what they are asked for."""


@dataclass(frozen=True)
class _Touched:
    """What a statement touched, and how many rows came back."""

    buffers: int
    rows: int
    plan: str


@pytest.fixture(scope="module", params=["installed", "emptied"])
def touched(quiet_postgres_url: str, request: pytest.FixtureRequest) -> Iterator[dict[str, _Touched]]:
    with filled_database(
        quiet_postgres_url, _touched if request.param == "installed" else _touched_since_empty
    ) as touched:
        yield touched


async def _touched_since_empty(url: str, conn: asyncpg.Connection) -> dict[str, _Touched]:
    await _leave_empty(conn)
    return await _touched(url, conn)


async def _touched(url: str, conn: asyncpg.Connection) -> dict[str, _Touched]:
    await _keep_statistics(conn)
    database = await Database.open(url, application_name="test", keep_plans=True)
    try:
        async with database.connection() as kept:
            for name, (statement, arguments) in _STATEMENTS.items():
                nulls = ", ".join(["NULL"] * len(arguments))
                await kept.execute(f'PREPARE "{name}" AS {statement}')
                await kept.execute(f'EXPLAIN EXECUTE "{name}" ({nulls})')
            await _fill(conn, _ENTRIES)
            return {name: await _touched_by(kept, name) for name in _STATEMENTS}
    finally:
        await database.close()


async def _keep_statistics(conn: asyncpg.Connection) -> None:
    for table in _TABLES:
        await conn.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off, vacuum_truncate = off)")


async def _leave_empty(conn: asyncpg.Connection) -> None:
    tables = ", ".join(_TABLES)
    await _keep_statistics(conn)
    await _fill(conn, 2_000)
    for table in _TABLES:
        await conn.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
    await conn.execute(f"VACUUM (ANALYZE, INDEX_CLEANUP on) {tables}")


async def _fill(conn: asyncpg.Connection, count: int) -> None:
    for statement in _FILL:
        text = (
            statement.replace("<id>", _ID)
            .replace("<running>", str(_RUNNING))
            .replace("<ungated>", str(_BATCH))
        )
        await conn.execute(text, count, *([_WORKER] if "$2" in statement else []))


async def _touched_by(conn: asyncpg.Connection, name: str) -> _Touched:
    statement, arguments = _STATEMENTS[name]
    types = (await conn.prepare(statement)).get_parameters()
    literals = [
        await conn.fetchval(f"SELECT format('%L::{type_.name}', $1::{type_.name})", argument)
        for type_, argument in zip(types, arguments, strict=True)
    ]
    transaction = conn.transaction()
    await transaction.start()
    plan = await conn.fetchval(
        f'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE "{name}" ({", ".join(literals)})'
    )
    await transaction.rollback()
    top = json.loads(plan)[0]["Plan"]
    # What changes rows and returns none has got them from below.
    found = max(
        node["Actual Rows"]
        for node in [top, *top.get("Plans", [])]
        if node.get("Parent Relationship") != "InitPlan"
    )
    return _Touched(top["Shared Hit Blocks"] + top["Shared Read Blocks"], round(found), plan)


@pytest.mark.parametrize("name", _STATEMENTS)
def test_a_plan_made_when_nothing_was_there_touches_what_it_needs(
    touched: dict[str, _Touched], name: str
) -> None:
    assert touched[name].rows >= _FOUND.get(name, 0), touched[name].plan
    most = _MOST_HOT_BUFFERS if name in _WRITE_NO_INDEX else _MOST_BUFFERS
    assert touched[name].buffers <= _BATCH * most, touched[name].plan
