"""What an object store can do, whichever it is."""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

MAX_KEY_CHARACTERS = 512
"""The longest key that every store takes."""

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", re.ASCII)


class InvalidKeyError(ValueError):
    """The text is no key of an object."""


class ObjectMissingError(Exception):
    """There is no object with this key."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A complete object in a store, and its length in bytes."""

    key: str
    size_bytes: int


class ObjectStore(ABC):
    """Keeps objects: bytes under a key, written once and as a whole.

    A key is a path of names of letters, digits, "_", "-" and ".", none of which begins with ".", separated by "/";
    every method raises InvalidKeyError for anything else.
    """

    provider: str
    """The name of this kind of store."""

    @abstractmethod
    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> StoredObject:
        """Store an object, replacing one with the same key.

        It exists, whole and durable, once this returns. When this fails, as when `chunks` raises, or is cancelled,
        nothing of it stays. Chunks may have any size.
        """

    @abstractmethod
    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes from `start` up to, not including, `end`, in chunks of 1 MiB or less.

        `end` None or behind the last byte means the end of the object. Raises ObjectMissingError, at once or, when
        the object is deleted meanwhile, in between.
        """

    @abstractmethod
    async def head(self, key: str) -> StoredObject | None:
        """Return what is known of an object, or None when there is no such object."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is no such object."""

    @abstractmethod
    def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield the objects whose keys start with `prefix`, which need not end where a name ends, by their keys."""

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete several objects; those that do not exist are passed over."""
        for key in keys:
            await self.delete(key)


def checked_key(key: str) -> str:
    """Return `key`. Raises InvalidKeyError when it is none."""
    if len(key) > MAX_KEY_CHARACTERS or not _KEY.fullmatch(key):
        raise InvalidKeyError("a key is a path of names of letters, digits, '_', '-' and '.'")
    return key
