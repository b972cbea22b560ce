"""What an operator says about files."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, Self

from millrace_database.file_usage_repository import FileLimits

_LIMITS = FileLimits(max_file_bytes=5 * 1024**3)


class FileOptions(Protocol):
    """What is to be known to keep files; the settings of a service are such."""

    @property
    def file_max_bytes(self) -> int:
        """The largest file that may be uploaded, in bytes, where nothing else is set; 0: no limit."""
        ...

    @property
    def files_max_total_bytes(self) -> int:
        """What the files of an organisation may take up, where nothing else is set for it; 0: no limit."""
        ...

    @property
    def files_max_count(self) -> int:
        """How many files an organisation may have, where nothing else is set for it; 0: no limit."""
        ...

    @property
    def files_allowed_types(self) -> Sequence[str]:
        """The media types that may be uploaded, also as in "text/*"; empty: all."""
        ...

    @property
    def files_temporary_hours(self) -> float:
        """For how long temporary files are kept."""
        ...

    @property
    def files_deleted_days(self) -> float:
        """For how long deleted files can be undeleted."""
        ...


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """The limits of organisations that have none of their own, what may be uploaded, and how long files are kept.

    Attributes:
        limits: 0 where there is none.
        allowed_types: the media types that may be uploaded, also as in "text/*"; empty: all.
        temporary: for how long temporary files are kept.
        deleted: for how long deleted files can be undeleted.

    """

    limits: FileLimits = _LIMITS
    allowed_types: tuple[str, ...] = ()
    temporary: timedelta = timedelta(hours=24)
    deleted: timedelta = timedelta(days=7)

    @classmethod
    def of(cls, options: FileOptions) -> Self:
        """Return what the settings say."""
        return cls(
            limits=FileLimits(
                max_total_bytes=options.files_max_total_bytes,
                max_files=options.files_max_count,
                max_file_bytes=options.file_max_bytes,
            ),
            allowed_types=tuple(options.files_allowed_types),
            temporary=timedelta(hours=options.files_temporary_hours),
            deleted=timedelta(days=options.files_deleted_days),
        )
