"""Whose objects are in a store: an object tells it, so that a copy of a database removes nothing of the original's."""

from collections.abc import AsyncIterator

from millrace_storage.object_store import ObjectMissingError, ObjectStore

OWNER_KEY = "millrace-owner"
"""The key of the object, behind the prefix of all keys."""

_LONGEST_IDENTITY = 256


async def why_not_owned(store: ObjectStore, prefix: str, identity: str, *, claim: bool) -> str | None:
    """Return None when the store is this database's, else why it is not, and what to do.

    A store that nobody owns yet becomes this database's if `claim` says so, and counts as its own in any case.
    """
    key = prefix + OWNER_KEY
    owner = await _read(store, key)
    if owner is None and claim:
        await store.put(key, _content(identity))
        # Another one may have done the same meanwhile.
        owner = await _read(store, key)
    if owner is None or owner == identity:
        return None
    return (
        f"its objects belong to another database: {key} says {owner}, and this one is {identity}. "
        f"If they are this one's now, delete {key}"
    )


async def _read(store: ObjectStore, key: str) -> str | None:
    content = b""
    try:
        async for chunk in await store.get(key, end=_LONGEST_IDENTITY):
            content += chunk
    except ObjectMissingError:
        return None
    return content.decode(errors="replace")


async def _content(identity: str) -> AsyncIterator[bytes]:
    yield identity.encode()
