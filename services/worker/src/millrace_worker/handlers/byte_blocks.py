from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from millrace_worker.handlers.thread_calls import call_in_thread

BLOCK_BYTES = 1 << 20


async def in_blocks(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Join chunks to blocks of at least BLOCK_BYTES, but for the last one."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= BLOCK_BYTES:
            yield b"".join(parts)
            parts.clear()
            size = 0
    if parts:
        yield b"".join(parts)


async def read_local_file(path: Path) -> AsyncGenerator[bytes, None]:
    """Yield the content of a local file in blocks, read in threads."""
    with await call_in_thread(path.open, "rb") as file:
        while block := await call_in_thread(file.read, BLOCK_BYTES):
            yield block
