"""A large file through the Jobs service onto a local disk and back, beside bare reading, writing and hashing."""

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from bench import usage
from bench.line import Line, at_most, ratio_at_least
from bench.rounds import Bench
from bench.samples import ORG
from millrace_client import Millrace
from support.processes import ServiceProcess

_MEBIBYTE = 1 << 20
_CHUNK_BYTES = 512 * 1024
_SAMPLE_SECONDS = 0.02
_SEED = os.urandom(_CHUNK_BYTES)


async def measure(bench: Bench) -> list[Line]:
    mebibytes = bench.scale.file_mebibytes
    async with (
        bench.surroundings.database() as database,
        bench.surroundings.jobs_service(database) as running,
        Millrace(running.jobs.address, org_id=ORG) as client,
    ):
        taken = await bench.rounds(
            {
                "bare write and read": partial(asyncio.to_thread, _bare, mebibytes),
                "upload and download": partial(_transfer, client, running.jobs, mebibytes),
            }
        )
    bare_up, bare_down = zip(*taken["bare write and read"], strict=True)
    up, down, peaks = zip(*taken["upload and download"], strict=True)
    return [
        Line("write and hash a file, bare", "MiB/s", bare_up),
        Line("upload a file", "MiB/s", up, "write and hash, bare", bare_up, ratio_at_least(0.25)),
        Line("read and hash a file, bare", "MiB/s", bare_down),
        Line("download a file", "MiB/s", down, "read and hash, bare", bare_down, ratio_at_least(0.15)),
        Line(f"RSS of the jobs service at most, {mebibytes:,} MiB", "MB", peaks, goal=at_most(150)),
    ]


def _chunks(mebibytes: int) -> Iterator[bytes]:
    for number in range(mebibytes * _MEBIBYTE // _CHUNK_BYTES):
        yield number.to_bytes(8, "big") + _SEED[8:]


def _bare(mebibytes: int) -> tuple[float, ...]:
    """The rates of writing a file that lasts, and of reading it."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-file-") as folder:
        path = Path(folder) / "file"
        started_at = time.perf_counter()
        written = hashlib.sha256()
        with path.open("wb", buffering=0) as file:
            for chunk in _chunks(mebibytes):
                written.update(chunk)
                file.write(chunk)
            os.fsync(file.fileno())
        write_seconds = time.perf_counter() - started_at
        started_at = time.perf_counter()
        read = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                read.update(chunk)
        assert read.digest() == written.digest()
        return mebibytes / write_seconds, mebibytes / (time.perf_counter() - started_at)


async def _transfer(client: Millrace, service: ServiceProcess, mebibytes: int) -> tuple[float, ...]:
    """The rates of an upload and of its download, and the most memory that the service held."""

    async def content() -> AsyncIterator[bytes]:
        for chunk in _chunks(mebibytes):
            yield chunk

    async with _peak_megabytes(service) as peak:
        started_at = time.perf_counter()
        file = await client.files.upload(content(), "bench.bin")
        uploaded_at = time.perf_counter()
        # Compares what arrives with the hash.
        with await asyncio.to_thread(Path(os.devnull).open, "wb") as nowhere:
            await client.files.download(file.file_id, nowhere)
        downloaded_at = time.perf_counter()
    await client.files.delete(file.file_id, permanently=True)
    return mebibytes / (uploaded_at - started_at), mebibytes / (downloaded_at - uploaded_at), peak()


@asynccontextmanager
async def _peak_megabytes(service: ServiceProcess) -> AsyncIterator[Callable[[], float]]:
    most = usage.megabytes(service)

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, usage.megabytes(service))
            await asyncio.sleep(_SAMPLE_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield lambda: most
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
