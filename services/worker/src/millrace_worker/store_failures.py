"""What becomes of an attempt whose handler met an object store that did not do what it was asked."""

from collections.abc import Iterator
from dataclasses import dataclass

from millrace_storage import (
    ContentMissing,
    ObjectMissingError,
    StoreNotConfigured,
    StoreRefusedError,
    StoreUnavailableError,
)


@dataclass(frozen=True, slots=True)
class StoreFailure:
    """What those who see the job are told. The store's own words are for operators, and in the log.

    `is_outage`: the store is away, which is no fault of the job and passes.
    """

    code: str
    message: str
    retryable: bool = True
    is_outage: bool = False


STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
"""The error code of an attempt that met a store that is away."""

_FAILURES: dict[type[Exception], StoreFailure] = {
    StoreUnavailableError: StoreFailure(
        STORE_UNAVAILABLE, "The object store cannot be reached.", is_outage=True
    ),
    # Somebody may have mended it before the last attempt.
    StoreRefusedError: StoreFailure("STORE_REFUSED", "The object store refused the request."),
    # Other workers may have access.
    StoreNotConfigured: StoreFailure(
        "STORE_NOT_CONFIGURED", "A file is in an object store that the worker has no access to."
    ),
    ContentMissing: StoreFailure(
        "CONTENT_MISSING", "The content of a file is no longer in the object store.", retryable=False
    ),
}
_FAILURES[ObjectMissingError] = _FAILURES[ContentMissing]


def store_failure(error: BaseException) -> StoreFailure | None:
    """Return what is told of an error of an object store, or of a group of none but such; None: it is another error."""
    if isinstance(error, BaseExceptionGroup):
        failures = {store_failure(one) for one in error.exceptions}
        return failures.pop() if len(failures) == 1 else None
    return next((failure for kind, failure in _FAILURES.items() if isinstance(error, kind)), None)


def store_words(error: BaseException) -> str:
    """Return what a store said, for operators: of a group what each of its errors says, once."""
    return "; ".join(dict.fromkeys(f"{type(one).__name__}: {one}" for one in _single_errors(error)))


def lost_content(error: BaseException | None) -> ContentMissing | None:
    """Return which file has lost its content, if that is what an error comes of; None: it is not."""
    if error is None or isinstance(error, ContentMissing):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((lost for one in error.exceptions if (lost := lost_content(one))), None)
    return lost_content(error.__cause__)


def _single_errors(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _single_errors(one)
    else:
        yield error
