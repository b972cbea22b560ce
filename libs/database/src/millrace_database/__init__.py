"""Millrace's tables, migrations, repositories and embedded Postgres."""

from millrace_database.availability import DatabaseUnavailableError, UnsupportedServerError, is_unavailable
from millrace_database.database import Database, asyncpg_connection

__all__ = [
    "Database",
    "DatabaseUnavailableError",
    "UnsupportedServerError",
    "asyncpg_connection",
    "is_unavailable",
]
