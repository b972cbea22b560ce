"""A job with all that is known of it, on the screen."""

from collections.abc import Mapping

from millrace_client.command.output import Output
from millrace_client.job import Job
from millrace_client.job_attempt import AttemptCounts

_COUNT_WORDS = {
    "completed": "completed",
    "failed": "failed",
    "timed_out": "timed out",
    "worker_lost": "lost their worker",
    "lease_lost": "lost their lease",
    "handed_back": "handed back",
    "snoozed": "snoozed",
    "cancelled": "cancelled",
}
# Whoever is to read it is told in words.
_SAID_OTHERWISE: Mapping[str, str] = {"alreadyExisted": "", "replaced": ""}


def show_job(output: Output, job: Job) -> None:
    """Print one job: a line of JSON, or a name and a value on each line."""
    output.show(
        job,
        for_people={
            "attemptCounts": _count_text(job.attempt_counts),
            "waitingReason": job.waiting_reason.message if job.waiting_reason else "",
            **_SAID_OTHERWISE,
        },
    )


def _count_text(counts: AttemptCounts | None) -> str:
    return ", ".join(
        f"{count} {words}" for name, words in _COUNT_WORDS.items() if (count := getattr(counts, name, 0))
    )
