from dataclasses import fields
from datetime import timedelta
from typing import Any

from millrace_storage.cleanup_report import Amount, CleanupIncompleteError, CleanupReport
from millrace_storage.storage_cleanup import clean_up_storage
from millrace_worker.registry import system_schedule
from millrace_worker.system_context import SystemContext

_LONGEST = timedelta(hours=12)


@system_schedule("storage:cleanup", "0 * * * *", timeout=_LONGEST)
async def clean_up(context: SystemContext) -> None:
    """Remove expired files and uploads, and what crashes left in the object stores.

    Raises CleanupIncompleteError, at its end, when a store did not do what it was asked.
    """
    report = await clean_up_storage(
        context.resources.database,
        context.resources.files.stores,
        dry_run=context.resources.storage_cleanup_dry_run,
    )
    for reason in report.left_alone:
        context.log.warning("objects were left alone", reason=reason)
    context.log.info("storage cleaned up", **log_fields(report))
    if report.problems:
        raise CleanupIncompleteError(report)


def log_fields(report: CleanupReport) -> dict[str, Any]:
    """Return what a line of the log says of a clean-up: of each step how many, and how many bytes if that is known."""
    said: dict[str, Any] = {"dry_run": report.dry_run, "seconds": report.seconds}
    for step in fields(report):
        match getattr(report, step.name):
            case Amount(count, size):
                said[step.name] = count
                if size:
                    said[f"{step.name}_bytes"] = size
            case _:
                pass
    return said
