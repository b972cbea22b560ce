"""What the errors of S3 mean, in the words of the interface."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
)
from botocore.exceptions import ConnectionError as EndpointError
from botocore.parsers import ResponseParserError

from millrace_storage.object_store import ObjectMissingError, StoreRefusedError, StoreUnavailableError

BROKEN_CONNECTION = (
    EndpointError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    aiohttp.ClientError,
    asyncio.TimeoutError,
    OSError,
)
"""How a request ends whose answer did not come, or not wholly."""

_PASSING_STATUSES = frozenset({408, 409, 425, 429})
_PASSING_CODES = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    }
)
# HEAD is answered without a body, so that its code is the status.
_MISSING_CODES = frozenset({"NoSuchKey", "NoSuchVersion", "404", "NotFound"})
_REPLACED_CODES = frozenset({"PreconditionFailed", "412"})


@contextmanager
def s3_errors(key: str | None = None) -> Iterator[None]:
    """Raise the errors of S3 and of the way to it as those of the interface, without the texts that came with them.

    What is said of `key`, if any, to be missing is an ObjectMissingError.
    """
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if key is not None and code in _MISSING_CODES | _REPLACED_CODES:
            raise ObjectMissingError(key) from None
        said = f"{error.operation_name}: {code} (status {status(error)})"
        if may_pass(error):
            raise StoreUnavailableError(f"the object store answered to {said}") from None
        raise StoreRefusedError(f"the object store refused {said}") from None
    except BROKEN_CONNECTION as error:
        raise StoreUnavailableError(f"the object store did not answer ({type(error).__name__})") from None
    except BotoCoreError as error:
        # Missing credentials and the like: the request was not made.
        raise StoreRefusedError(f"the object store cannot be asked ({type(error).__name__})") from None


def error_code(error: ClientError) -> str:
    """Return the word for what went wrong, or the status where there is none."""
    return error.response.get("Error", {}).get("Code") or str(status(error))


def status(error: ClientError) -> int:
    """Return the HTTP status."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def may_pass(error: ClientError) -> bool:
    """Return whether the same request may succeed later."""
    # An error that came with status 200, in the body, has the status 500 by now.
    return (
        (status(error) >= 500 and status(error) != 501)
        or status(error) in _PASSING_STATUSES
        or error_code(error) in _PASSING_CODES
    )
