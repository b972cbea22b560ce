"""The S3 server that tests share, and a bucket of it for each: fixtures."""

from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import pytest
from botocore.loaders import create_loader

from millrace_storage.object_store import ObjectStore
from support.object_stores import KINDS, open_store
from support.s3_server import S3Bucket, S3Server, new_bucket, running_s3_server
from support.tls import certificate_file


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server of this process, or the one that the environment names."""
    with running_s3_server() as server, pytest.MonkeyPatch.context() as monkeypatch:
        # Each client would read anew what botocore knows of S3, and all authorities that sign certificates. It takes longer
        # than most tests.
        monkeypatch.setattr("botocore.session.create_loader", cache(create_loader))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate_file(tmp_path_factory.mktemp("authorities"))))
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
