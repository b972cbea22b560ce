import time

from millrace_worker import JobContext, SyncJobContext, job_handler


@job_handler("bench:noop", concurrency=2_000)
async def noop(context: JobContext[dict[str, int]]) -> dict[str, float]:
    """Tell when the handler was entered, in seconds since the epoch."""
    return {"entered_at": time.time(), "number": context.input["number"]}


@job_handler("bench:noop-thread", concurrency=2_000)
def noop_in_thread(context: SyncJobContext[dict[str, int]]) -> dict[str, float]:
    """Do the same in a thread."""
    return {"entered_at": time.time(), "number": context.input["number"]}
