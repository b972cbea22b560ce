import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from millrace_database.database import Database
from millrace_runtime.settings import Settings
from millrace_storage import FileStore, LocalObjectStore, StoreNotConfigured
from millrace_storage.object_stores import open_object_stores
from support.direct_uploads import initiate, staging_key
from support.object_stores import keys, put, read
from support.s3_server import S3Bucket

# Nothing answers there.
NO_SERVER = "http://127.0.0.1:9"


def _with_s3(
    folder: Path,
    provider: str = "s3",
    endpoint: str = NO_SERVER,
    bucket: str = "files",
    prefix: str = "millrace/",
) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": folder,
            "storage_provider": provider,
            "s3_bucket": bucket,
            "s3_endpoint": endpoint,
            "s3_prefix": prefix,
        }
    )


async def test_on_this_machine(tmp_path: Path) -> None:
    async with open_object_stores(Settings(data_dir=tmp_path)) as stores:
        assert isinstance(stores.default, LocalObjectStore)
        assert stores.prefix == ""
        assert stores.default.root == tmp_path / "files"
        assert stores.of("local", "") is stores.default
        assert list(stores.all()) == [stores.default]
        for provider, bucket in (("s3", "files"), ("floppy", "")):
            with pytest.raises(StoreNotConfigured):
                stores.of(provider, bucket)
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_in_a_bucket(tmp_path: Path) -> None:
    async with open_object_stores(_with_s3(tmp_path)) as stores:
        assert (stores.default.provider, stores.default.bucket) == ("s3", "files")
        assert stores.prefix == "millrace/"
        assert stores.of("s3", "files") is stores.default
        assert list(stores.all()) == [stores.default]
        other = stores.of("s3", "older")
        assert (other.provider, other.bucket) == ("s3", "older")
        assert stores.of("s3", "older") is other
        local = stores.of("local", "")
        assert local.provider == "local"
        await put(local, "a")
        assert list(stores.all()) == [local, stores.default]


async def test_older_objects_in_a_bucket(tmp_path: Path) -> None:
    async with open_object_stores(_with_s3(tmp_path, provider="local")) as stores:
        assert (stores.default.provider, stores.prefix) == ("local", "")
        older = stores.of("s3", "files")
        assert list(stores.all()) == [stores.default, older]


async def test_buckets_of_one_server(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    settings = _with_s3(tmp_path, endpoint=s3_bucket.server.endpoint, bucket="another")
    async with open_object_stores(settings) as stores:
        store = stores.of("s3", s3_bucket.name)
        await put(store, "millrace/a", b"content")
        assert await read(store, "millrace/a") == b"content"


async def test_a_direct_upload_stays_behind_the_prefix(
    database: Database, tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    settings = _with_s3(
        tmp_path, endpoint=s3_bucket.server.endpoint, bucket=s3_bucket.name, prefix="my-incoming/"
    )
    async with open_object_stores(settings) as stores:
        files = FileStore(database, stores)
        upload = await initiate(files, b"content")
        await put(stores.default, await staging_key(database, upload.upload_id), b"content")
        file = await files.confirm_upload("acme", upload.upload_id)
        assert file.object_key.startswith("my-incoming/org-acme/")
        assert await keys(s3_bucket.store()) == [file.object_key]


def test_s3_is_imported_only_when_it_is_needed(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib, sys
from millrace_runtime.settings import Settings
from millrace_storage.object_stores import open_object_stores

async def main():
    async with open_object_stores(Settings(data_dir=pathlib.Path({str(tmp_path)!r}))):
        assert not [name for name in sys.modules if name.startswith(("aioboto", "boto"))]

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True)
