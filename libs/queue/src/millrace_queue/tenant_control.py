"""Operators set the share and the limits of tenants, and pause them."""

from millrace_queue import gate_statements, rate_statements, sweep_statements
from millrace_queue.entries import Connection
from millrace_queue.letting_go import let_go
from millrace_queue.rates import Rate
from millrace_queue.tenants import Tenant
from millrace_queue.type_gates import rate_columns

_SET = """
INSERT INTO queue_tenants AS old (tenant, weight, max_running, rate_count, rate_period, rate_smooth, gated_since)
VALUES (
    $1::text, $2::integer, $3::integer, $4::integer, $5::interval, $6::boolean, CASE WHEN $7::boolean THEN now() END
)
ON CONFLICT (tenant) DO UPDATE
SET weight = excluded.weight, max_running = excluded.max_running, rate_count = excluded.rate_count,
    rate_period = excluded.rate_period, rate_smooth = excluded.rate_smooth, changed_at = now(),
    gated_since = CASE WHEN $7::boolean AND NOT old.gated THEN now() ELSE old.gated_since END
"""

_PAUSE = """
INSERT INTO queue_tenants (tenant, paused) VALUES ($1::text, true) ON CONFLICT (tenant) DO UPDATE SET paused = true
"""

_RESUME = "UPDATE queue_tenants SET paused = false, changed_at = now() WHERE tenant = $1::text AND paused"


async def set_tenant(
    conn: Connection,
    tenant: str,
    *,
    weight: int = 1,
    max_running: int | None = None,
    rate: Rate | None = None,
) -> None:
    """Set the share and the limits of a tenant, all of them. They hold for what is claimed from now on.

    The first of what waited at its gates and may start now is put back into line; sweeps do the rest.
    While any tenant has a limit, claims of all types take longer: they look at the tenant of each entry.

    Raises:
        asyncpg.CheckViolationError: a number is out of its range.

    """
    is_gated = Tenant(max_running=max_running, rate=rate).is_gated
    await conn.execute(_SET, tenant, weight, max_running, *rate_columns(rate), is_gated)
    await conn.execute(rate_statements.OPEN_RATE, "", tenant)
    await _let_go(conn, tenant)


async def pause_tenant(conn: Connection, tenant: str) -> None:
    """Let no claim take entries of a tenant any more; those that run go on.

    The first of what it has in line is taken out of the line; sweeps do the rest.
    """
    await conn.execute(_PAUSE, tenant)
    await conn.fetch(sweep_statements.PARK_PAUSED, [tenant], sweep_statements.BATCH)


async def resume_tenant(conn: Connection, tenant: str) -> None:
    """Let claims take entries of a tenant again.

    The first of what was taken out of the line is put back; sweeps do the rest.
    """
    await conn.execute(_RESUME, tenant)
    await _let_go(conn, tenant)


async def _let_go(conn: Connection, tenant: str) -> None:
    """Put back what may start: with nothing in line until the next sweep, nothing of the tenant would run."""
    rows = await conn.fetch(gate_statements.PARKED_AT, [], [], [], [], [], [tenant])
    await let_go(conn, {(row["type"], row["tenant"]) for row in rows}, [])
