"""Turns: who brings many entries of one tenant in at once waits a moment for others that do the same."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from millrace_queue.entries import Connection, NewEntry

_MANY: Final = 100
_PATIENCE_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 0.005

_TRY = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))"


async def take_turns(conn: Connection, entries: Sequence[NewEntry]) -> None:
    """Wait until no other transaction brings many entries of the same type, tenant and priority in.

    Transactions that do not see each other give out the same ranks, so that many at once would get their tenant as
    many shares of the line. Nobody waits for more than half a second: the other transaction may be anybody's own, and long.
    """
    if len(entries) < _MANY or not conn.is_in_transaction():
        return
    shares = Counter((entry.type, entry.priority, entry.tenant) for entry in entries)
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + _PATIENCE_SECONDS
    for share in [share for share, count in shares.items() if count >= _MANY]:
        while not await conn.fetchval(_TRY, f"millrace.share {share}"):
            if loop.time() >= give_up_at:
                return
            await asyncio.sleep(_PAUSE_SECONDS)
