"""Going through the long lists of S3."""

import re
from collections.abc import AsyncIterable, AsyncIterator
from typing import TypeVar

from millrace_storage.object_store import InvalidKeyError, checked_key
from millrace_storage.s3_errors import s3_errors

_Page = TypeVar("_Page")

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9._/-]")


async def pages(found: AsyncIterable[_Page]) -> AsyncIterator[_Page]:
    """Yield the pages of a list; each is read when it is asked for."""
    iterator = aiter(found)
    while True:
        with s3_errors():
            try:
                page = await anext(iterator)
            except StopAsyncIteration:
                return
        yield page


def is_key(text: str) -> bool:
    """Return whether a key that a server names is one in the sense of `ObjectStore`."""
    try:
        checked_key(text)
    except InvalidKeyError:
        return False
    return True


def may_begin_keys(prefix: str) -> bool:
    """Return whether there can be keys that begin so; servers refuse some of what cannot."""
    return not _NOT_IN_KEYS.search(prefix)
