"""Puts and gets a long object and tells how much memory it took: `python -m support.s3_memory ENDPOINT BUCKET MEBIBYTES`.

Prints JSON: by how many bytes the peak of the process grew, and the seconds of each. The credentials are those of
the environment.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator

from millrace_storage.s3_client import S3Configuration, open_s3_clients
from millrace_storage.s3_object_store import S3ObjectStore

_MEBIBYTE = 1 << 20
_KEY = "org/long"


async def _mebibytes(count: int) -> AsyncIterator[bytes]:
    block = bytes(range(256)) * 4096
    for _ in range(count):
        yield block


async def _measure(endpoint: str, bucket: str, mebibytes: int) -> dict[str, float]:
    async with open_s3_clients(S3Configuration(endpoint=endpoint)) as clients:
        store = S3ObjectStore(clients, bucket)
        # What is loaded at the first use is no growth.
        await store.put("org/short", _mebibytes(1))
        async for _ in await store.get("org/short"):
            pass
        before = _peak_bytes()
        began = time.monotonic()
        await store.put(_KEY, _mebibytes(mebibytes), expected_bytes=mebibytes * _MEBIBYTE)
        put = time.monotonic()
        length = 0
        async for chunk in await store.get(_KEY):
            length += len(chunk)
        got = time.monotonic()
    return {"growth": _peak_bytes() - before, "length": length, "put": put - began, "get": got - put}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))))  # noqa: T201 - its answer
