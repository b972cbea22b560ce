"""What is the matter with files and their stores, as callers learn it."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from millrace_database.ids import format_id
from millrace_jobs.file_ranges import behind_the_end
from millrace_runtime.errors import (
    Aborted,
    ApiError,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from millrace_storage import (
    ContentMismatch,
    ContentMissing,
    FileDeleted,
    FileMissing,
    LimitExceeded,
    NothingUploaded,
    RangeBeyondEnd,
    StoreNotConfigured,
    StoreRefusedError,
    StoreUnavailableError,
    TypeNotAllowed,
    UploadConfirmed,
    UploadGivenUp,
    UploadMissing,
)

_QUOTAS = {
    "file_bytes": "files.max_file_bytes",
    "total_bytes": "files.max_total_bytes",
    "files": "files.max_files",
    "uploads": "files.open_uploads",
}

_log = structlog.get_logger()


@contextmanager
def file_refusals(org_id: str, name: str, *, prefix: str = "") -> Iterator[None]:
    """Raise what goes wrong with a file of an organisation as the error that its caller gets.

    `name` is the id that the caller gave of the file or upload, or the name of what is to be one; `prefix` is put before
    the fields that say what the content should be. Content that is lost is logged. A store that is away has been asked as
    often as makes sense: clients are told not to repeat the call by themselves.
    """
    try:
        yield
    except ContentMismatch as error:
        raise InvalidArgument([(f"{prefix}{error.field}", str(error))]) from None
    except TypeNotAllowed as error:
        raise InvalidArgument([(f"{prefix}content_type", str(error))]) from None
    except LimitExceeded as error:
        quota = _QUOTAS[error.limit]
        raise QuotaExceeded(quota, f"org:{org_id}", str(error), allowed=error.allowed) from None
    except (FileMissing, FileDeleted, RangeBeyondEnd, ContentMissing) as error:
        raise _of_file(error, name) from None
    except (UploadMissing, UploadConfirmed, NothingUploaded, UploadGivenUp) as error:
        raise _of_upload(error, name) from None
    except (StoreUnavailableError, StoreRefusedError, StoreNotConfigured) as error:
        raise _of_store(error, name) from None


def _of_file(error: FileMissing | FileDeleted | RangeBeyondEnd | ContentMissing, name: str) -> ApiError:
    match error:
        case FileMissing():
            return NotFound("file", name)
        case FileDeleted():
            return FailedPrecondition("FILE_DELETED", name, f"{name} is deleted")
        case RangeBeyondEnd():
            return behind_the_end(error.size)
        case _:
            return _lost(error, name)


def _lost(error: ContentMissing, name: str) -> ApiError:
    file = error.file
    if not error.is_removed:
        _log.error(
            "the content of a file is lost",
            org_id=file.org_id,
            file_id=format_id("file", file.file_id),
            object_key=file.object_key,
            provider=file.provider,
            bucket=file.bucket,
            expected_bytes=file.size_bytes,
            found_bytes=error.found_bytes,
        )
    return DataLoss(
        f"the content of {name} is {'no longer there' if error.found_bytes is None else 'damaged'}"
    )


def _of_upload(
    error: UploadMissing | UploadConfirmed | NothingUploaded | UploadGivenUp, name: str
) -> ApiError:
    match error:
        case UploadMissing():
            return NotFound("upload", name)
        case UploadConfirmed():
            return FailedPrecondition(
                "UPLOAD_CONFIRMED",
                name,
                f"{name} has been confirmed: it is {format_id('file', error.file_id)}",
            )
        case NothingUploaded():
            return FailedPrecondition("NOTHING_UPLOADED", name, f"nothing has been uploaded for {name}")
        case _:
            return Aborted(
                "UPLOAD_GIVEN_UP", "the upload made no progress for too long, or another call is at it"
            )


def _of_store(error: StoreUnavailableError | StoreRefusedError | StoreNotConfigured, name: str) -> ApiError:
    if isinstance(error, StoreUnavailableError):
        _log.warning("the object store cannot be reached", error=str(error))
        return Unavailable(
            "the object store cannot be reached",
            reason="STORE_UNAVAILABLE",
            retry_after=error.retry_after,
            tried=True,
        )
    if isinstance(error, StoreRefusedError):
        _log.error("the object store refused a request", error=str(error))
        return FailedPrecondition("STORE_REFUSED", name, "the object store refused the request")
    return FailedPrecondition(
        "STORE_NOT_CONFIGURED", name, f"the content of {name} is in a store that the service has no access to"
    )
