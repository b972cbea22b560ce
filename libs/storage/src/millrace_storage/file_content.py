"""Content on its way into a store."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from millrace_storage.content_types import HEAD_BYTES, actual_type, is_allowed
from millrace_storage.file_errors import ContentMismatch, Limit, LimitExceeded, TypeNotAllowed

# Hashing less than this takes less time than going to a thread for it.
_HASHED_HERE_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class Cap:
    """How many bytes may come before a limit would be exceeded, and what that is set to."""

    limit: Limit
    most_bytes: int
    allowed: int


@dataclass(frozen=True, slots=True)
class ContentRules:
    """What content has to be.

    Attributes:
        content_type: its media type as given.
        expected_size: its length, when it is known.
        expected_sha256: its SHA-256 in hexadecimal, when it is known.
        allowed_types: what media types it may be of; empty: any.
        caps: how long it may be.

    """

    content_type: str
    expected_size: int | None = None
    expected_sha256: str | None = None
    allowed_types: Sequence[str] = ()
    caps: Sequence[Cap] = ()


class FileContent:
    """Content that is measured, hashed, looked at, and compared with what it has to be, while it passes."""

    def __init__(
        self, chunks: AsyncIterator[bytes], rules: ContentRules, on_chunk: Callable[[], Awaitable[None]]
    ) -> None:
        self._chunks = chunks
        self._rules = rules
        self._on_chunk = on_chunk
        self._hash = hashlib.sha256()
        self._head = b""
        self.size = 0
        self.content_type: str | None = None

    @property
    def sha256(self) -> str:
        """The hash of what has passed."""
        return self._hash.hexdigest()

    async def checked(self) -> AsyncIterator[bytes]:
        """Yield the chunks.

        What is wrong is raised as soon as it shows, before a store can take the content for complete.

        Raises:
            ContentMismatch: it is not of the expected size or hash.
            TypeNotAllowed: it is of a type that is not allowed.
            LimitExceeded: it is too long.

        """
        async for chunk in self._chunks:
            await self._on_chunk()
            self.size += len(chunk)
            self._check_length()
            self._look_at(chunk)
            if len(chunk) > _HASHED_HERE_BYTES:
                await asyncio.to_thread(self._hash.update, chunk)
            else:
                self._hash.update(chunk)
            yield chunk
        self._recognise()
        self._check_whole()

    def _check_length(self) -> None:
        expected = self._rules.expected_size
        if expected is not None and self.size > expected:
            raise ContentMismatch("size_bytes", f"more than the announced {expected} bytes arrived")
        for cap in self._rules.caps:
            if self.size > cap.most_bytes:
                raise LimitExceeded(cap.limit, cap.allowed)

    def _look_at(self, chunk: bytes) -> None:
        if self.content_type is None:
            self._head += chunk[: HEAD_BYTES - len(self._head)]
            if len(self._head) >= HEAD_BYTES:
                self._recognise()

    def _recognise(self) -> None:
        if self.content_type is None:
            self.content_type = actual_type(self._rules.content_type, self._head)
            if not is_allowed(self.content_type, self._rules.allowed_types):
                raise TypeNotAllowed(self.content_type, self._rules.allowed_types)

    def _check_whole(self) -> None:
        expected = self._rules
        if expected.expected_size is not None and self.size != expected.expected_size:
            raise ContentMismatch(
                "size_bytes", f"{self.size} bytes arrived, {expected.expected_size} were announced"
            )
        if expected.expected_sha256 is not None and self.sha256 != expected.expected_sha256.lower():
            raise ContentMismatch("sha256", f"the SHA-256 of what arrived is {self.sha256}")
