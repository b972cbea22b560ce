"""What can be the matter with a file. Each is named after what is the matter, and its text is fit for callers."""

# ruff: noqa: N818
from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from millrace_database.files_repository import FileRecord

Limit = Literal["file_bytes", "total_bytes", "files", "uploads"]
"""What a limit is set to: the length of a file, the sum of all lengths, the number of files, of open uploads."""

_EXCEEDED: dict[Limit, tuple[str, str]] = {
    "file_bytes": ("a file may not be longer than", "byte"),
    "total_bytes": ("the organisation's files may not take up more than", "byte"),
    "files": ("the organisation may not have more than", "file"),
    "uploads": ("the organisation may not have more than", "open upload"),
}


class ContentMismatch(Exception):
    """What arrived is not of the announced size or hash, which `field` names; the text says more. Nothing was stored."""

    def __init__(self, field: Literal["size_bytes", "sha256"], text: str) -> None:
        super().__init__(text)
        self.field = field


class FileMissing(Exception):
    """There is no such file in the organisation."""

    def __init__(self, file_id: UUID) -> None:
        super().__init__(f"there is no file {file_id} in the organisation")
        self.file_id = file_id


class ContentMissing(Exception):
    """The file is described, but its content is no longer in the store, or is not what was stored.

    Attributes:
        file: the description.
        found_bytes: the length of what is there in its place; None: nothing is.
        is_removed: whether the file is gone by now, too, so that nothing is lost.

    """

    def __init__(self, file: FileRecord, found_bytes: int | None, *, is_removed: bool) -> None:
        state = "gone" if found_bytes is None else "damaged"
        super().__init__(f"the content of file {file.file_id} is {state}")
        self.file = file
        self.found_bytes = found_bytes
        self.is_removed = is_removed


class FileDeleted(Exception):
    """The file is deleted: it can be undeleted, but not be read or kept."""

    def __init__(self, file_id: UUID) -> None:
        super().__init__(f"file {file_id} is deleted")
        self.file_id = file_id


class TypeNotAllowed(Exception):
    """Files of this media type may not be uploaded, only those of the `allowed` ones. Nothing was stored."""

    def __init__(self, content_type: str, allowed: Sequence[str]) -> None:
        super().__init__(f"files of the type {content_type} may not be uploaded, only {', '.join(allowed)}")
        self.content_type = content_type


class LimitExceeded(Exception):
    """A limit of the organisation would be exceeded: `allowed` bytes, files or uploads. Nothing was stored."""

    def __init__(self, limit: Limit, allowed: int) -> None:
        text, unit = _EXCEEDED[limit]
        super().__init__(f"{text} {allowed:,} {unit}{'' if allowed == 1 else 's'}")
        self.limit: Limit = limit
        self.allowed = allowed


class RangeBeyondEnd(Exception):
    """The first byte that was asked for lies behind the end of the file, which has `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size:,} bytes")
        self.size = size


class UploadMissing(Exception):
    """There is no such upload in the organisation: it has expired or was cancelled, or its file is gone."""

    def __init__(self, upload_id: UUID) -> None:
        super().__init__(f"there is no upload {upload_id} in the organisation")
        self.upload_id = upload_id


class UploadConfirmed(Exception):
    """The upload has become a file and cannot be cancelled any more."""

    def __init__(self, file_id: UUID) -> None:
        super().__init__(f"the upload has been confirmed: it is file {file_id}")
        self.file_id = file_id


class NothingUploaded(Exception):
    """Nothing has been uploaded yet."""

    def __init__(self, upload_id: UUID) -> None:
        super().__init__(f"nothing has been uploaded as {upload_id}")
        self.upload_id = upload_id


class UploadGivenUp(Exception):
    """The upload made no progress for so long that it was given up, or another call is at it. It can be tried again."""


class LeaseLost(Exception):
    """The job that makes the file is no longer this worker's. Nothing was stored."""


class StoreNotConfigured(Exception):
    """The settings say nothing of the store that a file is in: its provider was changed since."""

    def __init__(self, provider: str, bucket: str) -> None:
        where = f"{provider}, bucket {bucket}" if bucket else provider
        super().__init__(f"the object store of the file is not configured: {where}")
        self.provider = provider
        self.bucket = bucket
