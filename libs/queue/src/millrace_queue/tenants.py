"""What is set for a tenant: its share, its limits over all types, and whether it is paused."""

from dataclasses import dataclass

from millrace_queue.entries import Connection
from millrace_queue.rates import Rate

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
