import asyncio
import json
import os
import re
import sys
from pathlib import Path

from aiohttp import web

from support.s3_disturbances import is_operation
from support.s3_server import S3Bucket

MEBIBYTE = 1 << 20
LENGTH = 300 * MEBIBYTE


async def _keep_nothing(request: web.BaseRequest, _: bytes) -> web.Response | None:
    """Takes an object in parts and gives one of the same length: moto reads all of a long object for any part of it."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    if is_operation("part")(request):
        return web.Response(headers={"ETag": '"etag"'})
    if is_operation("complete")(request):
        text = "<CompleteMultipartUploadResult><ETag>etag</ETag></CompleteMultipartUploadResult>"
        return web.Response(text=text, content_type="application/xml")
    if asked is None or not request.path.endswith("/long"):
        return None
    start, last = int(asked[1]), min(int(asked[2]), LENGTH - 1)
    headers = {"ETag": '"etag"', "Content-Range": f"bytes {start}-{last}/{LENGTH}"}
    return web.Response(status=206, body=bytes(last - start + 1), headers=headers)


async def test_long_objects_take_little_memory(s3_bucket: S3Bucket) -> None:
    """In a process of its own: its peak is nobody else's."""
    s3_bucket.proxy.always.append(_keep_nothing)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.s3_memory", s3_bucket.proxy.url, s3_bucket.name),
        str(LENGTH // MEBIBYTE),
        cwd=Path(__file__).parents[1],
        env={**os.environ, **s3_bucket.server.environment},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    measured = json.loads(output)
    assert measured["length"] == LENGTH
    assert measured["growth"] < 80 * MEBIBYTE
