"""What becomes of an attempt whose handler met an object store that did not do what it was asked."""

from dataclasses import dataclass

from millrace_runtime.errors import sole_error
from millrace_storage import (
    ContentMissing,
    ObjectMissingError,
    StoreNotConfigured,
    StoreRefusedError,
    StoreUnavailableError,
)


@dataclass(frozen=True, slots=True)
class StoreFailure:
    """What those who see the job are told. The store's own words are for operators, and in the log."""

    code: str
    message: str
    retryable: bool = True


_FAILURES: dict[type[Exception], StoreFailure] = {
    StoreUnavailableError: StoreFailure("STORE_UNAVAILABLE", "The object store cannot be reached."),
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
    """Return what is told of an error of an object store, also of one in a group of its own; None: it is another error."""
    sole = sole_error(error)
    return next((failure for kind, failure in _FAILURES.items() if isinstance(sole, kind)), None)
