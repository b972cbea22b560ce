import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_storage.s3_parts import MAX_PARTS, PartBuffers, cut, part_bytes

MEBIBYTE = 1 << 20
TEBIBYTE = 1 << 40


@pytest.mark.parametrize("expected", [None, 0, 1, 5 * MEBIBYTE, 50_000 * MEBIBYTE])
def test_parts_are_short_when_they_can_be(expected: int | None) -> None:
    assert part_bytes(expected) == 5 * MEBIBYTE


@given(st.integers(min_value=0, max_value=5 * TEBIBYTE))
def test_there_are_never_too_many_parts(expected: int) -> None:
    assert part_bytes(expected) * MAX_PARTS >= expected


@given(chunks=st.lists(st.binary(max_size=30), max_size=20), length=st.integers(min_value=1, max_value=40))
def test_all_parts_but_the_last_are_equally_long(chunks: list[bytes], length: int) -> None:
    async def source() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def parts() -> list[bytes]:
        buffers = PartBuffers()
        read = []
        async for part in cut(source(), length, buffers):
            read.append(part.read())
            buffers.give_back(part)
        return read

    *others, last = asyncio.run(parts())
    assert b"".join([*others, last]) == b"".join(chunks)
    assert all(len(part) == length for part in others)
    assert len(last) < length
