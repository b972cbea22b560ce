"""Lines: the order in which waiting entries of a type and priority are served."""

from collections.abc import Collection, Iterable, Mapping

from millrace_queue import line_statements
from millrace_queue.entries import Claim, Connection


class ServedRanks:
    """The last ranks that a worker claimed of each line since they were taken out."""

    def __init__(self) -> None:
        self._ranks: dict[tuple[str, int], int] = {}

    def add(self, claims: Iterable[Claim]) -> None:
        """Take note of claims."""
        for claim in claims:
            line = (claim.type, claim.priority)
            self._ranks[line] = max(self._ranks.get(line, 0), claim.rank)

    def take(self) -> dict[tuple[str, int], int]:
        """Return the last rank by type and priority, and forget them."""
        ranks, self._ranks = self._ranks, {}
        return ranks


async def add_lines(conn: Connection, types: Collection[str]) -> None:
    """Make the ordinary lines of types, those of priority 0, beforehand: who adds one holds up others that want it."""
    await conn.execute(line_statements.ADD_ORDINARY_LINES, list(types))


async def keep_lines(
    conn: Connection, served: Mapping[tuple[str, int], int], *, from_beginning: bool = False
) -> bool:
    """Move the starts of lines on, so that searches need not pass over what served entries left in the index.

    While a long transaction is open anywhere in the database, Postgres keeps all that. To be called about once a second
    by whoever claims; by how many does not matter.

    Args:
        conn: an open connection, best not in a longer transaction.
        served: the last rank claimed of lines, by type and priority.
        from_beginning: search for entries before the starts, too, and let these be found: they came in by a
            transaction that took longer than a second. Passes over all that is kept.

    Returns:
        Whether a search found entries that no claim could see before.

    """
    added = await conn.fetch(line_statements.ADD_LINES) if from_beginning else []
    rows = await conn.fetch(
        line_statements.KEEP_LINES,
        [type_ for type_, _ in served],
        [priority for _, priority in served],
        list(served.values()),
        from_beginning,
    )
    return bool(added) or any(row["moved_back"] for row in rows)
