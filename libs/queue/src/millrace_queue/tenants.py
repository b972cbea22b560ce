"""What operators set for a tenant: its share, its limits over all types, and whether it is paused."""

from dataclasses import dataclass

from millrace_queue import sweep_statements
from millrace_queue.entries import Connection
from millrace_queue.rates import Rate
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

_OPEN_RATE = (
    "UPDATE queue_rates SET next_at = now() WHERE type = '' AND tenant = $1::text AND next_at > now()"
)

_PAUSE = """
INSERT INTO queue_tenants (tenant, paused) VALUES ($1::text, true) ON CONFLICT (tenant) DO UPDATE SET paused = true
"""

_RESUME = "UPDATE queue_tenants SET paused = false, changed_at = now() WHERE tenant = $1::text AND paused"

_GET = """
SELECT paused, weight, max_running, rate_count, rate_period, rate_smooth FROM queue_tenants WHERE tenant = $1::text
"""


@dataclass(frozen=True, slots=True)
class Tenant:
    """What holds for a tenant over all types.

    Attributes:
        paused: none of its entries is claimed.
        weight: its share when others wait, too, 1 to 100: 2 is twice that of 1.
        max_running: how many run at once, from 0; None: any number.
        rate: how many start; None: any number.

    """

    paused: bool = False
    weight: int = 1
    max_running: int | None = None
    rate: Rate | None = None

    @property
    def is_gated(self) -> bool:
        """Whether it has limits."""
        return self.max_running is not None or self.rate is not None


async def get_tenant(conn: Connection, tenant: str) -> Tenant:
    """Return what is set for a tenant; one that nobody ever set anything for has the ordinary values."""
    row = await conn.fetchrow(_GET, tenant)
    if row is None:
        return Tenant()
    rate = row["rate_count"] and Rate(row["rate_count"], row["rate_period"], row["rate_smooth"])
    return Tenant(row["paused"], row["weight"], row["max_running"], rate)


async def set_tenant(
    conn: Connection,
    tenant: str,
    *,
    weight: int = 1,
    max_running: int | None = None,
    rate: Rate | None = None,
) -> None:
    """Set the share and the limits of a tenant, all of them. They hold for what is claimed from now on.

    While any tenant has a limit, claims of all types take longer: they look at the tenant of each entry.

    Raises:
        asyncpg.CheckViolationError: a number is out of its range.

    """
    is_gated = Tenant(max_running=max_running, rate=rate).is_gated
    await conn.execute(_SET, tenant, weight, max_running, *rate_columns(rate), is_gated)
    await conn.execute(_OPEN_RATE, tenant)


async def pause_tenant(conn: Connection, tenant: str) -> None:
    """Let no claim take entries of a tenant any more; those that run go on.

    The first of what it has in line is taken out of the line; sweeps do the rest.
    """
    await conn.execute(_PAUSE, tenant)
    await conn.fetch(sweep_statements.PARK_PAUSED, [tenant], sweep_statements.BATCH)


async def resume_tenant(conn: Connection, tenant: str) -> None:
    """Let claims take entries of a tenant again. What was taken out of the line comes back by sweeps."""
    await conn.execute(_RESUME, tenant)
