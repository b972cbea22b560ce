"""A process that serves presigned requests of a folder: `python presigned_process.py FOLDER SIZE`.

Says, a line each, the requests that put and get an object of SIZE bytes, as JSON, and for each line that it is sent
the most memory it has needed so far, in KiB.
"""

import asyncio
import json
import re
import sys
from datetime import timedelta
from pathlib import Path

from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.presigned_server import PresignedServer

_AN_HOUR = timedelta(hours=1)


async def _serve(folder: Path, size: int) -> None:
    store = LocalObjectStore(folder)
    async with PresignedServer(store, "127.0.0.1", 0):
        for request in (
            await store.presign_put("large", size_bytes=size, content_type="a/b", expires_in=_AN_HOUR),
            await store.presign_get("large", file_name="a", content_type="a/b", expires_in=_AN_HOUR),
        ):
            _say(json.dumps([request.method, request.url, dict(request.headers)]))
        while await asyncio.to_thread(sys.stdin.readline):
            _say(await asyncio.to_thread(_peak))


def _peak() -> str:
    # Of getrusage, a process that was just started gets the figure of the one that started it.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return found[1]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
