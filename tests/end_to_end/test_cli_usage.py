"""`millrace` as its own process, without any service."""

from support.command_line import CommandLine


async def test_a_service_that_does_not_answer_is_said_with_its_address() -> None:
    outcome = await CommandLine({}).run("--address", "127.0.0.1:1", "--org", "acme", "jobs", "retry", "job_1")
    assert outcome.code == 64 + 14
    assert outcome.stderr.startswith("error: UNAVAILABLE: ")
    assert "127.0.0.1:1" in outcome.stderr
    assert "millrace up" in outcome.stderr
    assert "Traceback" not in outcome.stderr


async def test_help_names_all_commands_without_loading_the_sdk_or_a_server() -> None:
    outcome = await CommandLine({"PYTHONPROFILEIMPORTTIME": "1"}).succeed("--help")
    groups = (
        "jobs",
        "types",
        "job-types",
        "files",
        "schedules",
        "system-schedules",
        "workers",
        "orgs",
        "queue",
    )
    for name in (*groups, "up", "serve", "migrate"):
        assert f"│ {name} " in outcome.stdout
    loaded = {line.rpartition("|")[2].strip() for line in outcome.stderr.splitlines()}
    assert {"typer", "millrace_client"} <= loaded
    assert loaded.isdisjoint({"grpc", "sqlalchemy", "asyncpg", "millrace_runtime"})


async def test_a_server_command_is_passed_its_own_options() -> None:
    outcome = await CommandLine({}).succeed("serve", "--help")
    assert "Usage: millrace serve" in outcome.stdout


async def test_the_version_is_printed() -> None:
    assert (await CommandLine({}).succeed("--version")).stdout.startswith("millrace 0.")
