"""A real S3 server for tests: moto's, over HTTP, or the one that the environment names."""

import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest
from aiohttp import web
from botocore.retries.standard import ExponentialBackoff, RetryContext
from moto.server import ThreadedMotoServer

from millrace_storage.s3_client import S3Clients, S3Configuration, open_s3_clients
from millrace_storage.s3_object_store import S3ObjectStore
from support.s3_presigned import presigned_refusal
from support.s3_proxy import S3Proxy, s3_proxy

_ENDPOINT = "MILLRACE_TEST_S3_ENDPOINT"
_ACCESS_KEY = "MILLRACE_TEST_S3_ACCESS_KEY"
_SECRET_KEY = "MILLRACE_TEST_S3_SECRET_KEY"  # noqa: S105 - a variable's name
_CREDENTIALS_OF_MOTO = ("millrace", "any-secret")


@dataclass(frozen=True)
class S3Server:
    """Where a server is, and who may use it."""

    endpoint: str
    access_key: str
    secret_key: str
    checks_presigned: bool

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process is to have in its environment to use it, and no other settings of this machine's user."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @property
    def configuration(self) -> S3Configuration:
        return S3Configuration(endpoint=self.endpoint, attempts=3, connect_seconds=5, read_seconds=30)


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Gives a server of this process; it keeps what it stores in memory, and forgets it."""
    if endpoint := os.environ.get(_ENDPOINT):
        yield S3Server(endpoint, os.environ[_ACCESS_KEY], os.environ[_SECRET_KEY], checks_presigned=True)
        return
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}", *_CREDENTIALS_OF_MOTO, checks_presigned=False)
    finally:
        server.stop()


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of a server, and a proxy in front of that."""

    name: str
    server: S3Server
    proxy: S3Proxy
    clients: S3Clients

    @property
    def through_proxy(self) -> S3Configuration:
        """How the bucket is reached through the proxy."""
        return replace(self.server.configuration, endpoint=self.proxy.url)

    def store(self) -> S3ObjectStore:
        """The store of the bucket, past the proxy."""
        return S3ObjectStore(self.clients, self.name)

    @asynccontextmanager
    async def store_with(self, configuration: S3Configuration) -> AsyncIterator[S3ObjectStore]:
        """Gives the store of the bucket with other settings."""
        async with open_s3_clients(configuration) as clients:
            yield S3ObjectStore(clients, self.name)

    async def unfinished(self) -> list[str]:
        """The keys of all multipart uploads, asked without the store."""
        answer = await self.clients.own.list_multipart_uploads(Bucket=self.name)
        return [upload["Key"] for upload in answer.get("Uploads", ())]


@asynccontextmanager
async def new_bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3Bucket]:
    """Gives a bucket that is removed afterwards. What moto does not check of presigned requests, the proxy does."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    # botocore has no setting for it: up to 3 seconds for each request that fails twice.
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", _short_pause)
    name = f"millrace-{uuid4().hex}"
    async with s3_proxy(server.endpoint) as proxy:
        public_endpoint = server.endpoint
        if not server.checks_presigned:
            public_endpoint = proxy.url

            async def check(request: web.BaseRequest, _: bytes) -> web.Response | None:
                return presigned_refusal(request, server.secret_key)

            proxy.always.append(check)
        configuration = replace(server.configuration, public_endpoint=public_endpoint)
        async with open_s3_clients(configuration) as clients:
            await clients.own.create_bucket(Bucket=name)
            try:
                yield S3Bucket(name, server, proxy, clients)
            finally:
                await _remove_bucket(clients, name)


def _short_pause(_: ExponentialBackoff, context: RetryContext) -> float:
    return 0.01 * context.attempt_number


async def _remove_bucket(clients: S3Clients, name: str) -> None:
    uploads = await clients.own.list_multipart_uploads(Bucket=name)
    for upload in uploads.get("Uploads", ()):
        await clients.own.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    pages = clients.own.get_paginator("list_objects_v2").paginate(Bucket=name)
    keys = [entry["Key"] async for page in pages for entry in page.get("Contents", ())]
    for start in range(0, len(keys), 1000):
        objects = keys[start : start + 1000]
        await clients.own.delete_objects(Bucket=name, Delete={"Objects": [{"Key": key} for key in objects]})
    await clients.own.delete_bucket(Bucket=name)
