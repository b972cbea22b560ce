"""The limits of types over all workers: what handlers say, and what operators set instead."""

from collections.abc import Sequence
from dataclasses import replace

import asyncpg

import millrace_queue
from millrace_database.job_options import TypeLimits, TypeOptions
from millrace_queue import Rate, TypeGates

# Whoever writes the limits of a type locks its row first, so that the last one who set them wins with all of them.
_LOCK_TYPES = """
SELECT type, options::text AS options_json, overrides::text AS overrides_json
FROM job_types
WHERE type = ANY ($1::text[])
ORDER BY type
FOR UPDATE
"""
_SET_OVERRIDES = "UPDATE job_types SET overrides = $2::text::jsonb WHERE type = $1::text"


def effective_limits(options: TypeOptions, overrides: TypeOptions) -> TypeLimits:
    """Return what holds for a type: what operators set, otherwise what its handler says; None: no limit."""
    given, set_ = options.limits, overrides.limits
    return TypeLimits(
        max_running=_first(set_.max_running, given.max_running) or None,
        max_running_per_organisation=_first(
            set_.max_running_per_organisation, given.max_running_per_organisation
        )
        or None,
        rate=_limiting(set_.rate or given.rate),
        rate_per_organisation=_limiting(set_.rate_per_organisation or given.rate_per_organisation),
    )


async def update_job_type_limits(conn: asyncpg.Connection, type_name: str, limits: TypeLimits) -> bool:
    """Set limits that hold instead of those the handler gives; what is None is as the handler says.

    Returns:
        False: nobody ever published the type, and nothing changed.

    """
    row = await conn.fetchrow(_LOCK_TYPES, [type_name])
    if row is None:
        return False
    overrides = replace(TypeOptions.from_json(row["overrides_json"]), limits=limits)
    await conn.execute(_SET_OVERRIDES, type_name, overrides.to_json())
    await _apply(conn, type_name, effective_limits(TypeOptions.from_json(row["options_json"]), overrides))
    return True


async def apply_job_type_limits(conn: asyncpg.Connection, type_names: Sequence[str]) -> None:
    """Have the queue keep the limits of published types, in the transaction in which these were published."""
    if not type_names:
        return
    for row in await conn.fetch(_LOCK_TYPES, type_names):
        options = TypeOptions.from_json(row["options_json"])
        overrides = TypeOptions.from_json(row["overrides_json"])
        await _apply(conn, row["type"], effective_limits(options, overrides))


async def _apply(conn: asyncpg.Connection, type_name: str, limits: TypeLimits) -> None:
    gates = TypeGates(
        limits.max_running,
        limits.max_running_per_organisation,
        limits.rate,
        limits.rate_per_organisation,
    )
    await millrace_queue.set_type_limits(conn, type_name, gates)


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _limiting(rate: Rate | None) -> Rate | None:
    return rate if rate is not None and rate.count else None
