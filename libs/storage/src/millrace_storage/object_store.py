"""What an object store can do, whichever it is."""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto

MAX_KEY_CHARACTERS = 512
"""The longest key that every store takes."""

# File systems, and some S3 servers on them, take names of 255 bytes.
_NAME = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}"
_KEY = re.compile(f"{_NAME}(/{_NAME})*", re.ASCII)


class InvalidKeyError(ValueError):
    """The text is no key of an object."""


class ObjectMissingError(Exception):
    """There is no object with this key."""


class StoreUnavailableError(Exception):
    """The store did not answer, or answered with an error that may pass, as often as it was tried; the text says what.

    `retry_after` is when it makes sense to try again.
    """

    def __init__(self, text: str, *, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class WriteRemovedError(StoreUnavailableError):
    """What a writer had begun was removed meanwhile by others, who took it for given up."""


class StoreRefusedError(Exception):
    """The store refused the request: its credentials, its bucket or its rights are wrong. The text names no secret."""


class StoreUnusableError(StoreRefusedError):
    """Nothing can be done with the store as things are set up. The text says which setting to mend, in one line."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A complete object in a store: its length in bytes, and when it was written by the store's clock."""

    key: str
    size_bytes: int
    written_at: datetime


@dataclass(frozen=True, slots=True)
class UnfinishedWrite:
    """What a writer has begun and not ended: of which object, since when by the store's clock.

    `token` is the store's own name of it.
    """

    key: str
    token: str
    begun_at: datetime


class Remains(Enum):
    """What a store has of an object that was to be written."""

    NOTHING = auto()
    """Nothing for certain, nor is anything on its way there."""

    PERHAPS = auto()
    """Something, or nothing, or it is still to come: a request was not answered, or not taken back."""

    OBJECT = auto()
    """The object, complete."""


@dataclass(slots=True)
class WriteState:
    """How far a `put` has come; it can be read when that has failed."""

    remains: Remains = Remains.NOTHING


@dataclass(frozen=True, slots=True)
class PresignedRequest:
    """An HTTP request that is allowed until its time is over, to whoever knows it: the headers must be sent as they are."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class ObjectStore(ABC):
    """Keeps objects: bytes under a key, written once and as a whole.

    A key is a path of names of letters, digits, "_", "-" and ".", none of which begins with "." or is longer than 255
    characters, separated by "/"; every method raises InvalidKeyError for anything else. Every method may raise
    StoreUnavailableError and StoreRefusedError.
    """

    provider: str
    """The name of this kind of store."""

    bucket: str
    """The bucket that its objects are in; empty for a store without buckets."""

    max_presigned_bytes: int
    """The longest object that one presigned request can put."""

    async def check(self) -> None:  # noqa: B027 - a store may be made by what is written first
        """Ask whether the store can be used. Raises StoreUnusableError when it certainly cannot."""

    @abstractmethod
    async def put(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        expected_bytes: int | None = None,
        state: WriteState | None = None,
    ) -> StoredObject:
        """Store an object, replacing one with the same key.

        It exists, whole and durable, once this returns. When this fails, as when `chunks` raises, or is cancelled,
        nothing of it stays, as far as the store answers within some seconds; `state` tells whether that is certain.
        Chunks may have any size. `expected_bytes` is a hint of how many there will be.
        """

    @abstractmethod
    async def create(self, key: str, content: bytes) -> bool:
        """Store a short object, unless there is one with its key: of several at once one succeeds. False: there is one.

        A server of S3 that knows no conditions replaces it. A local file system without links does when two come at once.
        """

    @abstractmethod
    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes from `start` up to, not including, `end`, in chunks of 256 KiB to 1 MiB, the last of any size.

        `end` None or behind the last byte means the end of the object. A connection that breaks is made again, and
        reading goes on where it was; while nobody takes the chunks no connection is held. Raises ObjectMissingError, at
        once or, when the object is deleted meanwhile, in between.
        """

    @abstractmethod
    async def head(self, key: str) -> StoredObject | None:
        """Return what is known of an object, or None when there is no such object."""

    @abstractmethod
    async def move(self, source: str, target: str) -> StoredObject:
        """Give an object another key, replacing one with that; its bytes do not pass through this process.

        When this fails, both may exist. Up to `max_presigned_bytes`. Raises ObjectMissingError.
        """

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is no such object."""

    @abstractmethod
    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete objects, any number, in batches; those that do not exist are passed over.

        Returns:
            Why it did not succeed, by the keys of those that could not be deleted. Empty: all are gone.

        """

    @abstractmethod
    def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Yield the objects whose keys start with `prefix`, which need not end where a name ends, by their keys.

        Memory does not grow with how many they are. Objects whose keys are none in the sense above are left out.
        """

    @abstractmethod
    def list_unfinished(self, prefix: str = "") -> AsyncIterator[UnfinishedWrite]:
        """Yield what writers have begun below `prefix` and not ended, whether they are still at it or not.

        For each object that was begun, of stores that find it only by its whole key too.
        """

    @abstractmethod
    async def abort_unfinished(self, write: UnfinishedWrite) -> None:
        """Remove what a writer has left behind; nothing happens when it is not there any more."""

    @abstractmethod
    async def presign_put(
        self, key: str, *, size_bytes: int, content_type: str, expires_in: timedelta
    ) -> PresignedRequest:
        """Return a request that stores an object of exactly this length, at most `max_presigned_bytes`."""

    @abstractmethod
    async def presign_get(
        self,
        key: str,
        *,
        file_name: str,
        content_type: str,
        expires_in: timedelta,
        size_bytes: int | None = None,
    ) -> PresignedRequest:
        """Return a request that reads an object, in parts too, answered as a download with this name and media type.

        `size_bytes` is how long it is known to be: where others can make it shorter, it is refused then.
        """

    def writers_wait(self) -> bool:
        """Return whether writers wait until others have ended, since no more may write at a time."""
        return False

    def where(self, key: str) -> str:
        """Return where people find an object."""
        return f"{key} in the bucket {self.bucket}"

    async def close(self) -> None:  # noqa: B027 - a store may have nothing to close
        """Close what is open. Nothing else is called afterwards."""


def checked_key(key: str) -> str:
    """Return `key`. Raises InvalidKeyError when it is none."""
    if len(key) > MAX_KEY_CHARACTERS or not _KEY.fullmatch(key):
        raise InvalidKeyError("a key is a path of short names of letters, digits, '_', '-' and '.'")
    return key
