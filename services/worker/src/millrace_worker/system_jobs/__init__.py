"""The system schedules that Millrace brings along; importing this package declares them. Each worker has them."""

from millrace_worker.system_jobs import database_maintenance, storage_cleanup, subscriptions_monitor

__all__ = ["database_maintenance", "storage_cleanup", "subscriptions_monitor"]
