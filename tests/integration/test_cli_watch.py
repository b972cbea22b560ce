"""What `millrace jobs watch` prints where there is no terminal."""

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from support.command_line import CommandLine
from support.scripted_jobs import ScriptedJobs, serving


async def test_a_line_is_printed_for_each_change_that_shows() -> None:
    def job(status: int, **fields: object) -> job_pb2.Job:
        return job_pb2.Job(job_id="job_1", status=status, **fields)  # type: ignore[arg-type]

    away = job_pb2.JobError(code="STORE_UNAVAILABLE", message="it is away")
    changes = [
        job(job_pb2.JOB_STATUS_PENDING),
        job(job_pb2.JOB_STATUS_PENDING, priority=5),
        job(job_pb2.JOB_STATUS_PROCESSING, attempt=1),
        job(job_pb2.JOB_STATUS_PROCESSING, attempt=1, progress=50),
        job(job_pb2.JOB_STATUS_PROCESSING, attempt=1, progress=50, worker_id="worker_2"),
        job(job_pb2.JOB_STATUS_PENDING, attempt=1, error=away),
        job(job_pb2.JOB_STATUS_PENDING, attempt=2, error=away),
        job(job_pb2.JOB_STATUS_COMPLETED, attempt=3, progress=100, output={}),
    ]
    jobs = ScriptedJobs(jobs_service_pb2.GetJobResponse(job=changes[0]), changes)
    async with serving(jobs) as address:
        command = CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme"})
        watched = await command.succeed("jobs", "watch", "job_1")
    assert watched.stdout.splitlines() == [
        "PENDING 0%",
        "PROCESSING 0%",
        "PROCESSING 50%",
        "PENDING 0% STORE_UNAVAILABLE: it is away",
        "COMPLETED 100%",
        "{}",
    ]
