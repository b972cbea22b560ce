from datetime import timedelta

from millrace_database.job_options import RetentionRule
from millrace_runtime.settings import Settings


def retention_of(settings: Settings) -> RetentionRule:
    """Return how long finished jobs are kept whose type says nothing else."""
    return RetentionRule(
        completed=timedelta(days=settings.retention_completed),
        failed=timedelta(days=settings.retention_failed),
        cancelled=timedelta(days=settings.retention_cancelled),
    )
