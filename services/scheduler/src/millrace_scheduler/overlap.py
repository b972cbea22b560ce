"""What a job asks of the queue so that the jobs of one schedule do not overlap."""

from uuid import UUID

from millrace.jobs.v1 import job_options_pb2, jobs_service_pb2
from millrace_database.ids import format_id


def add_overlap_options(request: jobs_service_pb2.CreateJobRequest, policy: str, schedule_id: UUID) -> None:
    """Add what a policy (one of OVERLAP_POLICIES) asks of the job of a schedule's time.

    With "skip" and "buffer_one" a job that may not be is refused with ALREADY_EXISTS.
    """
    key = f"millrace:schedule:{format_id('schedule', schedule_id)}"
    if policy in ("skip", "buffer_one"):
        waiting_only = policy == "buffer_one"
        request.unique.CopyFrom(
            job_options_pb2.Uniqueness(
                key=key,
                scope=job_options_pb2.UNIQUE_SCOPE_ORGANISATION,
                states=(
                    job_options_pb2.UNIQUE_STATES_WAITING
                    if waiting_only
                    else job_options_pb2.UNIQUE_STATES_UNFINISHED
                ),
                on_conflict=job_options_pb2.UNIQUE_CONFLICT_REJECT,
            )
        )
    if policy in ("buffer_one", "cancel_running"):
        request.concurrency.CopyFrom(job_options_pb2.Concurrency(key=key, limit=1))
