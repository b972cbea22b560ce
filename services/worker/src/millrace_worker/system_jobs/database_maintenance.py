from datetime import timedelta

from millrace_database.database_maintenance import maintain
from millrace_database.maintenance_report import MaintenanceReport
from millrace_worker.registry import system_schedule
from millrace_worker.system_context import SystemContext

# A tenth of the time for a large database.
_TIMEOUT = timedelta(hours=12)


class MaintenanceFailedError(Exception):
    """Some steps of a maintenance failed; the others came to their end."""


@system_schedule("database:maintenance", "30 3 * * *", timeout=_TIMEOUT)
async def maintain_database(context: SystemContext) -> None:
    """Remove what nobody needs any more, count anew what may be wrong, and say which tables and indexes grow too large."""
    report = await maintain(context.resources.database, context.resources.retention)
    _tell(context, report)
    if (failure := report.failure()) is not None:
        raise MaintenanceFailedError(failure)


def _tell(context: SystemContext, report: MaintenanceReport) -> None:
    for hint in report.hints:
        context.log.warning(
            "database hint",
            kind=hint.kind,
            name=hint.name,
            found=hint.found,
            bytes=hint.bytes,
            ratio=hint.ratio,
            command=hint.command,
        )
    for step in report.failed:
        context.log.error("a step of the database maintenance failed", step=step.name, exc_info=step.error)
    context.log.info(
        "database maintained",
        seconds=round(report.seconds, 3),
        counts={step.name: step.counts for step in report.steps},
        step_seconds={step.name: round(step.seconds, 3) for step in report.steps},
    )
