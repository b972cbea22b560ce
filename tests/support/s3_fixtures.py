"""The S3 server that tests share, and a bucket of it for each: fixtures."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from millrace_storage.object_store import ObjectStore
from support.object_stores import KINDS, open_store
from support.s3_server import S3Bucket, S3Server, new_bucket, running_s3_server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server of this process, or the one that the environment names."""
    with running_s3_server() as server:
        yield server


@pytest.fixture
async def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3Bucket]:
    """A new bucket; this process has the credentials for it."""
    async with new_bucket(s3_server, monkeypatch) as bucket:
        yield bucket


@pytest.fixture(params=KINDS)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ObjectStore]:
    """A store of each kind, empty."""
    async with open_store(request.param, tmp_path, s3_server, monkeypatch) as opened:
        yield opened
