"""Which database this is, among all there are."""

import asyncpg

_IDENTITY = """
SELECT system_identifier::text || '-' || (SELECT oid FROM pg_database WHERE datname = current_database())
FROM pg_control_system()
"""


async def read_database_identity(conn: asyncpg.Connection) -> str | None:
    """Return what tells this database from all others, and from its copies; None: the role may not know.

    What was restored from a dump is another database; what was copied with all files of the server is the same one.
    """
    try:
        identity: str = await conn.fetchval(_IDENTITY)
    except asyncpg.InsufficientPrivilegeError:
        return None
    return identity
