"""Deleting many objects of S3."""

import asyncio
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from millrace_storage.object_store import StoreRefusedError, StoreUnavailableError
from millrace_storage.s3_errors import error_code, s3_errors, status

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_BATCH = 1000
_AT_A_TIME = 16
_UNKNOWN_STATUSES = frozenset({405, 501})
_UNKNOWN_CODES = frozenset(
    {
        "InvalidArgument",
        "InvalidRequest",
        "MalformedXML",
        "MethodNotAllowed",
        "MissingContentMD5",
        "NotImplemented",
        "UnsupportedOperation",
    }
)
_logger = logging.getLogger(__name__)


class S3Deleter:
    """Deletes objects of a bucket in batches, or one by one where the server knows no batches."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._knows_batches = True

    async def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is no such object."""
        with s3_errors():
            try:
                await self._client.delete_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                # S3 does not say so, but others do.
                if error_code(error) != "NoSuchKey":
                    raise

    async def delete_many(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete objects and return why, by key, some could not be."""
        failures: dict[str, str] = {}
        for batch in _batches(dict.fromkeys(keys)):
            if self._knows_batches:
                failures |= await self._delete_batch(batch)
            # What this batch has found out may have changed it.
            if not self._knows_batches:
                failures |= await self._delete_each(batch)
        return failures

    async def _delete_batch(self, keys: Sequence[str]) -> dict[str, str]:
        with s3_errors():
            try:
                answer = await self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
                )
            except ClientError as error:
                if status(error) not in _UNKNOWN_STATUSES and error_code(error) not in _UNKNOWN_CODES:
                    raise
                _logger.warning(
                    "the object store does not delete batches (%s): deleting one by one", error_code(error)
                )
                self._knows_batches = False
                return {}
        failures = {error.get("Key", ""): error.get("Code", "unknown") for error in answer.get("Errors", ())}
        return {key: code for key, code in failures.items() if code != "NoSuchKey"}

    async def _delete_each(self, keys: Sequence[str]) -> dict[str, str]:
        failures: dict[str, str] = {}
        waiting = iter(keys)
        unanswered: list[StoreUnavailableError] = []

        async def delete_some() -> None:
            for key in waiting:
                try:
                    await self.delete(key)
                except StoreUnavailableError as error:
                    failures[key] = str(error)
                    unanswered.append(error)
                except StoreRefusedError as error:
                    failures[key] = str(error)
                else:
                    unanswered.clear()
                if len(unanswered) >= _AT_A_TIME:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_A_TIME):
                group.create_task(delete_some())
        if len(unanswered) >= _AT_A_TIME:
            # It takes long to find that out of each: the server is away.
            raise unanswered[0]
        return failures


def _batches(keys: dict[str, None]) -> Iterator[list[str]]:
    waiting = iter(keys)
    while batch := list(itertools.islice(waiting, _BATCH)):
        yield batch
