"""The names of all tables that are Millrace's: a database may have others besides."""

from millrace_database import file_tables, schedule_tables, subscription_tables, tables
from millrace_database.metadata import metadata

_DEFINED_BY = (tables, schedule_tables, file_tables, subscription_tables)
"""The modules that put tables into `metadata` when they are imported."""

_QUEUE_TABLES = (
    "queue",
    "queue_workers",
    "queue_lost_workers",
    "queue_lines",
    "queue_types",
    "queue_tenants",
    "queue_rates",
    "queue_blocked_keys",
    "queue_throttles",
)

MAINTAINED_TABLES: tuple[str, ...] = (*_QUEUE_TABLES, *sorted(metadata.tables))
