"""What operators set for a type: its limits over all workers, and whether it is paused."""

from dataclasses import dataclass

from millrace_queue import rate_statements
from millrace_queue.entries import Connection
from millrace_queue.rates import Rate

_SET_LIMITS = """
INSERT INTO queue_types AS old (
    type, max_running, max_running_per_tenant, rate_count, rate_period, rate_smooth,
    tenant_rate_count, tenant_rate_period, tenant_rate_smooth, gated_since
)
VALUES (
    $1::text, $2::integer, $3::integer, $4::integer, $5::interval, $6::boolean, $7::integer, $8::interval, $9::boolean,
    CASE WHEN $10::boolean THEN now() END
)
ON CONFLICT (type) DO UPDATE
SET max_running = excluded.max_running, max_running_per_tenant = excluded.max_running_per_tenant,
    rate_count = excluded.rate_count, rate_period = excluded.rate_period, rate_smooth = excluded.rate_smooth,
    tenant_rate_count = excluded.tenant_rate_count, tenant_rate_period = excluded.tenant_rate_period,
    tenant_rate_smooth = excluded.tenant_rate_smooth, changed_at = now(),
    gated_since = CASE WHEN $10::boolean AND NOT old.gated THEN now() ELSE old.gated_since END
WHERE (
    old.max_running, old.max_running_per_tenant, old.rate_count, old.rate_period, old.rate_smooth,
    old.tenant_rate_count, old.tenant_rate_period, old.tenant_rate_smooth
) IS DISTINCT FROM (
    excluded.max_running, excluded.max_running_per_tenant, excluded.rate_count, excluded.rate_period,
    excluded.rate_smooth, excluded.tenant_rate_count, excluded.tenant_rate_period, excluded.tenant_rate_smooth
)
"""

_PAUSE = """
INSERT INTO queue_types (type, paused) VALUES ($1::text, true) ON CONFLICT (type) DO UPDATE SET paused = true
"""

_RESUME = "UPDATE queue_types SET paused = false, changed_at = now() WHERE type = $1::text AND paused"


@dataclass(frozen=True, slots=True)
class TypeGates:
    """Limits of a type over all workers; None: no limit.

    Attributes:
        max_running: how many run at once, from 0.
        max_running_per_tenant: how many of one tenant run at once, from 0.
        rate: how many start.
        tenant_rate: how many of one tenant start.

    """

    max_running: int | None = None
    max_running_per_tenant: int | None = None
    rate: Rate | None = None
    tenant_rate: Rate | None = None


async def set_type_limits(conn: Connection, type_: str, gates: TypeGates) -> None:
    """Set the limits of a type, all of them. They hold for what is claimed from now on; what runs goes on and counts.

    Raises:
        asyncpg.CheckViolationError: a number is out of its range.

    """
    await conn.execute(
        _SET_LIMITS,
        type_,
        gates.max_running,
        gates.max_running_per_tenant,
        *rate_columns(gates.rate),
        *rate_columns(gates.tenant_rate),
        gates != TypeGates(),
    )
    await conn.execute(rate_statements.OPEN_RATE, type_, "")


async def pause_type(conn: Connection, type_: str) -> None:
    """Let no claim take entries of a type any more; those that run go on."""
    await conn.execute(_PAUSE, type_)


async def resume_type(conn: Connection, type_: str) -> None:
    """Let claims take entries of a type again."""
    await conn.execute(_RESUME, type_)


def rate_columns(rate: Rate | None) -> tuple[object, object, bool]:
    """Return the columns that a rate is stored in: count, period, smooth."""
    return (None, None, False) if rate is None else (rate.count, rate.period, rate.smooth)
