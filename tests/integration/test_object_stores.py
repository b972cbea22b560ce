"""What every object store does."""

import asyncio
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace_storage import InvalidKeyError, ObjectMissingError, ObjectStore, UnfinishedWrite
from support.object_stores import chunks_of, keys, put, read

KEY = "org-acme/4f/object"
KIBIBYTE = 1 << 10
MEBIBYTE = 1 << 20
A_MINUTE = timedelta(minutes=1)


async def test_an_object_comes_back_as_it_was_put(store: ObjectStore) -> None:
    content = os.urandom(3 * MEBIBYTE + 17)
    pieces = [content[start : start + 10_007] for start in range(0, len(content), 10_007)]
    stored = await store.put(KEY, chunks_of(*pieces))
    found = await store.head(KEY)
    assert found is not None
    assert (stored.key, stored.size_bytes) == (found.key, found.size_bytes) == (KEY, len(content))
    for written_at in (stored.written_at, found.written_at):
        assert abs(datetime.now(UTC) - written_at) < A_MINUTE
    assert await read(store, KEY) == content


async def test_an_object_is_created_only_where_there_is_none(store: ObjectStore) -> None:
    assert await store.create(KEY, b"first")
    assert not await store.create(KEY, b"second")
    assert await read(store, KEY) == b"first"
    await store.delete(KEY)
    assert await store.create(KEY, b"")
    assert await read(store, KEY) == b""
    assert [write async for write in store.list_unfinished()] == []
    with pytest.raises(InvalidKeyError):
        await store.create("../a", b"")


@pytest.mark.parametrize("size", [0, 1, 5 * MEBIBYTE - 1, 5 * MEBIBYTE, 5 * MEBIBYTE + 1, 21 * MEBIBYTE])
async def test_objects_of_any_size(store: ObjectStore, size: int) -> None:
    content = os.urandom(size)
    stored = await store.put(
        KEY, chunks_of(*(content[at : at + MEBIBYTE] for at in range(0, size, MEBIBYTE)))
    )
    assert stored.size_bytes == size
    found = await store.head(KEY)
    assert found is not None
    assert found.size_bytes == size
    assert await read(store, KEY) == content


@pytest.mark.parametrize("expected", [0, 20 * MEBIBYTE, 60_000 * MEBIBYTE])
async def test_a_wrong_expectation_does_no_harm(store: ObjectStore, expected: int) -> None:
    content = os.urandom(9 * MEBIBYTE)
    await store.put(KEY, chunks_of(content), expected_bytes=expected)
    assert await read(store, KEY) == content


async def test_chunks_are_neither_small_nor_large(store: ObjectStore) -> None:
    await put(store, KEY, bytes(5 * MEBIBYTE + 1))
    sizes = [len(chunk) async for chunk in await store.get(KEY, start=3)]
    assert sum(sizes) == 5 * MEBIBYTE - 2
    assert all(256 * KIBIBYTE <= size <= MEBIBYTE for size in sizes[:-1])
    assert 0 < sizes[-1] <= MEBIBYTE


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 5, b"34"),
        (0, 1, b"0"),
        (9, 10, b"9"),
        (0, 99, b"0123456789"),
        (10, None, b""),
        (99, None, b""),
        (12, 99, b""),
        (5, 5, b""),
        (6, 5, b""),
    ],
)
async def test_a_part_of_an_object(store: ObjectStore, start: int, end: int | None, expected: bytes) -> None:
    await store.put(KEY, chunks_of(b"01234", b"56789"))
    chunks = await store.get(KEY, start=start, end=end)
    assert b"".join([chunk async for chunk in chunks]) == expected


async def test_a_large_part_of_an_object(store: ObjectStore) -> None:
    content = os.urandom(9 * MEBIBYTE)
    await put(store, KEY, content)
    assert await read(store, KEY, start=300_000, end=8_000_001) == content[300_000:8_000_001]


async def test_what_does_not_exist(store: ObjectStore) -> None:
    assert await store.head(KEY) is None
    assert await keys(store) == []
    await store.delete(KEY)
    assert await store.delete_many([KEY, "another"]) == {}
    with pytest.raises(ObjectMissingError):
        await store.get(KEY)
    with pytest.raises(ObjectMissingError):
        await store.get(KEY, start=5, end=5)
    with pytest.raises(ObjectMissingError):
        await store.move(KEY, "another")
    await put(store, KEY)
    with pytest.raises(ObjectMissingError):
        await store.get("org-acme/4f")
    assert await store.head("org-acme/4f/object/below") is None


async def test_putting_again_replaces(store: ObjectStore) -> None:
    for content in (b"first, and longer", os.urandom(9 * MEBIBYTE), b"third"):
        await put(store, KEY, content)
        assert await read(store, KEY) == content
    assert await keys(store) == [KEY]


async def test_a_reader_of_a_deleted_object_is_told(store: ObjectStore) -> None:
    await put(store, KEY, bytes(9 * MEBIBYTE))
    chunks = await store.get(KEY)
    await anext(chunks)
    await store.delete(KEY)
    with pytest.raises(ObjectMissingError):
        async for _ in chunks:
            pass


async def test_a_reader_of_a_replaced_object_is_told(store: ObjectStore) -> None:
    await put(store, KEY, bytes(9 * MEBIBYTE))
    chunks = await store.get(KEY)
    await anext(chunks)
    await put(store, KEY, b"1" * (9 * MEBIBYTE))
    with pytest.raises(ObjectMissingError):
        async for _ in chunks:
            pass


async def test_deleting(store: ObjectStore) -> None:
    for name in ("a", "b", "c"):
        await put(store, f"org/{name}")
    await store.delete("org/a")
    assert await store.delete_many(["org/b", "org/none", "org/b"]) == {}
    assert await keys(store) == ["org/c"]
    assert await store.delete_many([]) == {}


async def test_deleting_more_than_a_batch(store: ObjectStore) -> None:
    there = [f"org/{number:04}" for number in range(0, 2500, 50)]
    for key in there:
        await put(store, key)
    await put(store, "org/stays")
    assert await store.delete_many([f"org/{number:04}" for number in range(2500)]) == {}
    assert await keys(store) == ["org/stays"]


async def test_listing_by_prefix_in_the_order_of_the_keys(store: ObjectStore) -> None:
    names = ["a-b/x", "a/x", "a/y/z", "ab", "b/1"]
    for key in reversed(names):
        await put(store, key, key.encode())
    assert await keys(store) == names
    assert await keys(store, "a/") == ["a/x", "a/y/z"]
    assert await keys(store, "a") == ["a-b/x", "a/x", "a/y/z", "ab"]
    assert await keys(store, "a/y/z") == ["a/y/z"]
    assert await keys(store, "a/y/zz") == []
    for nothing in ("c", "../", "a/\0", "ä", "/", " "):
        assert await keys(store, nothing) == []
    async for stored in store.list("a/"):
        found = await store.head(stored.key)
        assert found is not None
        assert stored.size_bytes == found.size_bytes == len(stored.key)
        assert abs(stored.written_at - found.written_at) < A_MINUTE


async def test_listing_goes_on_while_what_was_listed_is_deleted(store: ObjectStore) -> None:
    for start in range(0, 1100, 20):
        await asyncio.gather(*(put(store, f"org/{number:04}") for number in range(start, start + 20)))
    listed = []
    async for stored in store.list("org/"):
        listed.append(stored.key)
        if len(listed) % 100 == 0:
            assert await store.delete_many(listed[-100:]) == {}
    assert listed == [f"org/{number:04}" for number in range(1100)]
    assert await keys(store) == []


async def test_moving(store: ObjectStore) -> None:
    content = os.urandom(9 * MEBIBYTE)
    await put(store, "incoming/1", content)
    await put(store, KEY, b"replaced")
    moved = await store.move("incoming/1", KEY)
    assert (moved.key, moved.size_bytes) == (KEY, len(content))
    assert await read(store, KEY) == content
    assert await keys(store) == [KEY]
    assert (await store.move(KEY, KEY)).size_bytes == len(content)
    assert await read(store, KEY) == content
    with pytest.raises(ObjectMissingError):
        await store.move("incoming/1", KEY)
    assert await read(store, KEY) == content


_SEGMENT = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, include_characters="\0\n é "), max_size=6
)
_NO_KEYS = st.one_of(
    st.sampled_from(
        [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/./b",
            ".a",
            "a/.b",
            "a\0",
            "a\n",
            "é",
            "a b",
        ]
    ),
    st.just("k" * 513),
    st.tuples(_SEGMENT, st.sampled_from(["\0", " ", "\\", "%", "é", "//", "/."]), _SEGMENT).map("".join),
)


async def test_what_is_no_key_is_refused(store: ObjectStore) -> None:
    async def refused(key: str) -> None:
        day = timedelta(days=1)
        for call in (
            lambda: store.get(key),
            lambda: store.head(key),
            lambda: store.put(key, chunks_of(b"x")),
            lambda: store.delete(key),
            lambda: store.delete_many(["a", key]),
            lambda: store.move(key, "a"),
            lambda: store.move("a", key),
            lambda: store.presign_get(key, file_name="a", content_type="text/plain", expires_in=day),
            lambda: store.presign_put(key, size_bytes=1, content_type="text/plain", expires_in=day),
        ):
            with pytest.raises(InvalidKeyError):
                await call()

    tried: list[str] = []

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(key=_NO_KEYS)
    def collect(key: str) -> None:
        tried.append(key)

    collect()
    await put(store, "a")
    for key in dict.fromkeys(tried):
        await refused(key)
    assert await keys(store) == ["a"]


async def test_the_longest_key_is_taken(store: ObjectStore) -> None:
    key = "/".join(["k" * 99] * 5) + "/end.of_it-1"
    longest = key + "x" * (512 - len(key))
    await put(store, longest, b"far away")
    assert await read(store, longest) == b"far away"
    assert await keys(store, longest[:300]) == [longest]
    await store.delete(longest)
    assert await keys(store) == []


async def test_giving_up_what_is_not_there_is_no_error(store: ObjectStore) -> None:
    await store.abort_unfinished(UnfinishedWrite(KEY, "0" * 32, datetime.now(UTC)))
