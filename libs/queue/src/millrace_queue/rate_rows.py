"""Rates as they are kept in the database."""

import json
from datetime import datetime

from millrace_queue import rate_statements
from millrace_queue.entries import Connection
from millrace_queue.gate_state import Gates


async def save_rates(conn: Connection, gates: Gates) -> None:
    """Write how much is used of the rates that were counted in, or found used up."""
    if not gates.touched:
        return
    now = gates.settings.now
    rows = []
    for scope in sorted(gates.touched):
        rate, use = gates.rate_of(scope), gates.rates[scope]
        if rate is None:
            continue
        is_used_up = use.places(rate, now) == 0
        # Claims look themselves when the rate of a type opens. What waits for that of a tenant is parked.
        waits = is_used_up and scope[1] != ""
        next_at = use.next_at if rate.smooth and not is_used_up else use.opens_at(rate, now)
        rows.append(
            (*scope, _json(use.times), json.dumps(use.counts), next_at, waits, use.idle_at(rate) or now)
        )
    await conn.execute(rate_statements.SAVE_RATES, *(list(column) for column in zip(*rows, strict=True)))


def _json(times: list[datetime]) -> str:
    return json.dumps([time.isoformat() for time in times])
