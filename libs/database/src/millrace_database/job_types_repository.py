"""The job types that workers have published."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg

import millrace_queue
from millrace_database.job_options import TypeOptions
from millrace_database.job_type_limits import apply_job_type_limits

DEFAULT_MAX_ATTEMPTS = 4
"""How many attempts a job gets whose type does not say: its handler does not, or nobody has published it."""

_PUBLISH = """
INSERT INTO job_types (type, label, description, input_schema, max_attempts, timeout, concurrency, options)
SELECT type, label, description, input_schema::jsonb, max_attempts, timeout, concurrency, options::jsonb
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::interval[], $7::integer[], $8::text[]
) AS published (type, label, description, input_schema, max_attempts, timeout, concurrency, options)
ORDER BY type
ON CONFLICT (type) DO UPDATE
SET label = excluded.label, description = excluded.description, input_schema = excluded.input_schema,
    max_attempts = excluded.max_attempts, timeout = excluded.timeout, concurrency = excluded.concurrency,
    options = excluded.options, published_at = now()
WHERE (job_types.label, job_types.description, job_types.input_schema, job_types.max_attempts, job_types.timeout,
        job_types.concurrency, job_types.options)
    IS DISTINCT FROM (excluded.label, excluded.description, excluded.input_schema, excluded.max_attempts,
        excluded.timeout, excluded.concurrency, excluded.options)
RETURNING type
"""

_RECORDS = """
SELECT type, label, description, input_schema::text AS input_schema_json, max_attempts, timeout, concurrency,
    (
        SELECT count(*) FROM queue_workers
        WHERE heartbeat_at >= now() - lease AND NOT draining AND details -> 'types' ? job_types.type
    ) AS active_workers,
    EXISTS (SELECT FROM queue_types WHERE queue_types.type = job_types.type AND paused) AS paused,
    options::text AS options_json, overrides::text AS overrides_json
FROM job_types
"""

_GET = _RECORDS + "WHERE type = ANY ($1::text[])"

_LIST = _RECORDS + "WHERE type > coalesce($1::text, '') ORDER BY type LIMIT $2::integer"


@dataclass(frozen=True, slots=True)
class PublishedType:
    """What a worker says of one of its handlers.

    Attributes:
        type: the name of the jobs it runs, such as "imports:load".
        label: a short name for people.
        description: what it does.
        input_schema_json: the JSON Schema of its input, a JSON object.
        max_attempts: how many attempts a job gets when its creator names no number, from 1.
        timeout: how long one attempt may run.
        concurrency: how many of them one worker runs at once, from 1.
        options: what it asks for beyond that.

    """

    type: str
    label: str
    description: str
    input_schema_json: str
    max_attempts: int
    timeout: timedelta
    concurrency: int
    options: TypeOptions = field(default_factory=TypeOptions)


@dataclass(frozen=True, slots=True)
class JobTypeRecord:
    """A published job type.

    Attributes:
        active_workers: how many workers take jobs of it now.
        paused: none of its jobs is started.
        options_json: what its handler says beyond that, for `TypeOptions.from_json`.
        overrides_json: what operators have set instead, likewise.

    """

    type: str
    label: str
    description: str
    input_schema_json: str
    max_attempts: int
    timeout: timedelta
    concurrency: int
    active_workers: int
    paused: bool
    options_json: str
    overrides_json: str


async def publish_job_types(conn: asyncpg.Connection, types: Sequence[PublishedType]) -> None:
    """Make types known, and replace what was known of them; nothing is written for those that are the same.

    To be called in a transaction: limits over all workers change with it, as far as operators have not set others.
    """
    await millrace_queue.add_lines(conn, [type_.type for type_ in types])
    changed = await conn.fetch(
        _PUBLISH,
        [type_.type for type_ in types],
        [type_.label for type_ in types],
        [type_.description for type_ in types],
        [type_.input_schema_json for type_ in types],
        [type_.max_attempts for type_ in types],
        [type_.timeout for type_ in types],
        [type_.concurrency for type_ in types],
        [type_.options.to_json() for type_ in types],
    )
    await apply_job_type_limits(conn, [row["type"] for row in changed])


async def get_job_type(conn: asyncpg.Connection, type_name: str) -> JobTypeRecord | None:
    """Return a published type, or None when nobody ever published it."""
    return (await get_job_types(conn, [type_name])).get(type_name)


async def get_job_types(conn: asyncpg.Connection, type_names: Sequence[str]) -> dict[str, JobTypeRecord]:
    """Return those of the types that have been published, by their names."""
    return {row["type"]: JobTypeRecord(**row) for row in await conn.fetch(_GET, type_names)}


async def list_job_types(conn: asyncpg.Connection, after: str | None, limit: int) -> list[JobTypeRecord]:
    """Return published types by name; `after` is the last name of the page before, None: from the first."""
    return [JobTypeRecord(**row) for row in await conn.fetch(_LIST, after, limit)]
