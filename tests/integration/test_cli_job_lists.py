"""What `millrace jobs list` prints."""

from millrace.jobs.v1 import job_pb2, jobs_service_pb2
from support.command_line import CommandLine
from support.scripted_jobs import ScriptedJobs, serving


async def test_a_job_that_waits_because_of_an_error_shows_it() -> None:
    away = job_pb2.JobError(code="STORE_UNAVAILABLE", message="The object store cannot be reached.")
    page = jobs_service_pb2.ListJobsResponse(
        jobs=[
            job_pb2.Job(job_id="job_1", status=job_pb2.JOB_STATUS_PENDING, message="half way", error=away),
            job_pb2.Job(job_id="job_2", status=job_pb2.JOB_STATUS_PROCESSING, message="half way"),
        ]
    )
    async with serving(ScriptedJobs(page)) as address:
        command = CommandLine({"MILLRACE_JOBS_ADDRESS": address, "MILLRACE_ORG_ID": "acme"})
        listed = await command.succeed("jobs", "list")

    _, waiting, running = listed.stdout.splitlines()
    assert waiting.startswith("job_1 ")
    assert waiting.endswith("The object store cannot be reached.")
    assert running.startswith("job_2 ")
    assert running.endswith("half way")
