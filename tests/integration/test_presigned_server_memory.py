import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from yarl import URL

from support import presigned_process

MEBIBYTE = 1 << 20
SIZE = 300 * MEBIBYTE


async def _megabytes() -> AsyncIterator[bytes]:
    for _ in range(SIZE // MEBIBYTE):
        yield bytes(MEBIBYTE)


async def test_large_content_takes_little_memory(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        presigned_process.__file__,
        str(tmp_path / "root"),
        str(SIZE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        (_, put_url, headers), (_, get_url, _) = [
            json.loads(await process.stdout.readline()) for _ in range(2)
        ]
        process.stdin.write(b"\n")
        before = int(await process.stdout.readline())
        async with aiohttp.ClientSession() as session:
            async with session.put(URL(put_url, encoded=True), data=_megabytes(), headers=headers) as answer:
                assert answer.status == 200
            read = 0
            async with session.get(URL(get_url, encoded=True)) as answer:
                async for chunk in answer.content.iter_any():
                    read += len(chunk)
            assert read == SIZE
        process.stdin.write(b"\n")
        after = int(await process.stdout.readline())
        assert (after - before) * 1024 < 60 * MEBIBYTE
        process.stdin.close()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
