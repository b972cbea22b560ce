"""A service that keeps files asks at its start whether it can."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from millrace_database.database import Database
from millrace_runtime.settings import StartupError
from millrace_storage import store_check
from millrace_worker import Registry
from support.jobs_api import serving
from support.s3_disturbances import answering
from support.s3_presigned import refusal
from support.s3_server import S3Bucket
from support.worker_runs import worker

_Run = Callable[..., AbstractAsyncContextManager[object]]
_Warnings = Callable[..., Awaitable[list[str]]]


@pytest.fixture(params=["jobs", "worker"])
def run(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> _Run:
    """Runs a service that keeps files on S3 until the end of the block, with settings."""

    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[object]:
        used = {"storage_provider": "s3", "s3_attempts": 1, **settings}
        service = serving if request.param == "jobs" else _worker
        async with service(database, tmp_path, **used) as running:
            yield running

    return run


def _worker(database: Database, folder: Path, **settings: Any) -> AbstractAsyncContextManager[object]:
    return worker(database, Registry(), folder, **settings)


async def _why_not(run: _Run, **settings: Any) -> str:
    with pytest.raises(StartupError) as caught:
        async with run(**settings):
            pass
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.fixture
def warnings(run: _Run, caplog: pytest.LogCaptureFixture) -> _Warnings:
    """What is logged of the store by a service that starts with settings."""

    async def warnings(**settings: Any) -> list[str]:
        async with run(**settings):
            pass
        return [vars(line)["error"] for line in caplog.records if line.name == store_check.__name__]

    return warnings


async def test_a_bucket_that_is_not_there_is_named(run: _Run, s3_bucket: S3Bucket) -> None:
    endpoint = s3_bucket.server.endpoint
    assert await _why_not(run, s3_bucket="no-such-bucket", s3_endpoint=endpoint) == (
        f"MILLRACE_S3_BUCKET: {endpoint} has no bucket no-such-bucket"
    )
    assert (await _why_not(run, s3_bucket="no/bucket", s3_endpoint=endpoint)).startswith(
        "MILLRACE_S3_BUCKET: "
    )


async def test_credentials_that_are_not_there_are_named(
    run: _Run, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    said = await _why_not(run, s3_bucket=s3_bucket.name, s3_endpoint=s3_bucket.server.endpoint)
    assert "no credentials" in said
    assert "AWS_ACCESS_KEY_ID" in said


async def test_settings_that_cannot_be_used_are_named(
    run: _Run, s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await _why_not(run, s3_bucket="files", s3_endpoint="no url")
    assert said.startswith("MILLRACE_S3_ENDPOINT")
    damaged = tmp_path / "config"
    damaged.write_text("[default\nregion")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(damaged))
    said = await _why_not(run, s3_bucket="files", s3_endpoint=s3_bucket.server.endpoint)
    assert said.startswith("AWS's own settings cannot be used: ")
    assert str(damaged) in said


async def test_a_bucket_that_is_there_is_no_matter(warnings: _Warnings, s3_bucket: S3Bucket) -> None:
    assert await warnings(s3_bucket=s3_bucket.name, s3_endpoint=s3_bucket.server.endpoint) == []


@pytest.mark.parametrize("status", [403, 400, 503])
async def test_a_server_that_does_not_say_is_a_warning(
    warnings: _Warnings, s3_bucket: S3Bucket, status: int
) -> None:
    s3_bucket.proxy.always.append(answering(lambda: refusal(status, "No"), to=lambda _: True))
    [warning] = await warnings(s3_bucket=s3_bucket.name, s3_endpoint=s3_bucket.proxy.url)
    assert s3_bucket.name in warning


async def test_a_server_that_is_away_is_a_warning(warnings: _Warnings, s3_bucket: S3Bucket) -> None:
    [warning] = await warnings(s3_bucket=s3_bucket.name, s3_endpoint="http://127.0.0.1:1")
    assert "is away" in warning


async def test_a_server_that_hangs_does_not_hold_the_service_up(
    warnings: _Warnings, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_check, "_CHECK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        [warning] = await warnings(s3_bucket=s3_bucket.name, s3_endpoint=endpoint)
    assert "does not answer" in warning
