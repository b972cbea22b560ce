"""Files that jobs read or make, and what an organisation's files take up."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypedDict

from google.protobuf.field_mask_pb2 import FieldMask

from millrace.files.v1 import file_pb2, files_service_pb2
from millrace_client.contract_enum import ContractEnum
from millrace_client.values import from_timestamp


class FileState(StrEnum):
    """For how long a file is kept."""

    TEMPORARY = "TEMPORARY"
    """Until its `expires_at`, unless it is persisted before."""
    PERSISTENT = "PERSISTENT"
    """Until somebody deletes it."""
    WITH_JOB = "WITH_JOB"
    """As long as the job that made it, unless it is persisted before."""
    DELETED = "DELETED"
    """Deleted; it goes at its `expires_at`, unless it is undeleted before."""
    UNKNOWN = "UNKNOWN"
    """A state that this version of the SDK does not know."""


_LIMITS: tuple[Literal["max_total_bytes", "max_files", "max_file_bytes"], ...] = (
    "max_total_bytes",
    "max_files",
    "max_file_bytes",
)

_states = ContractEnum(FileState, file_pb2.FileState.items(), "FILE_STATE_")


@dataclass(frozen=True, slots=True)
class File:
    """A file of an organisation: uploaded by a user, or made by a job."""

    file_id: str
    org_id: str
    name: str
    content_type: str
    """The media type, such as "text/csv", in lower case, with its parameters, if it was given some."""
    size_bytes: int
    sha256: str
    """The SHA-256 of the content, in lower-case hexadecimal."""
    created_by: str
    created_at: datetime
    job_id: str
    """The job that made the file; empty for an uploaded one."""
    state: FileState = FileState.UNKNOWN
    expires_at: datetime | None = None
    """From this time on it is gone; None: no time is set."""
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class FileLimits:
    """What the files of an organisation may take up; 0: no limit. None, to be set: as the server says."""

    max_total_bytes: int | None = None
    """The sum of their lengths."""
    max_files: int | None = None
    """How many they are."""
    max_file_bytes: int | None = None
    """The length of one."""


class FileLimitChanges(TypedDict, total=False):
    """What may be changed of an organisation's limits: 0: no limit, None: as the server says. What is left out stays."""

    max_total_bytes: int | None
    max_files: int | None
    max_file_bytes: int | None


@dataclass(frozen=True, slots=True)
class FileUsage:
    """What the files of an organisation take up; deleted ones do not count."""

    org_id: str
    total_bytes: int
    files: int
    limits: FileLimits
    """Those in force: set for the organisation, else the server's."""
    own_limits: FileLimits = FileLimits()
    """Those set for the organisation; None: as the server says."""


@dataclass(frozen=True, slots=True)
class DownloadUrl:
    """Where anyone who knows it can download a file for some time: for no log."""

    url: str
    expires_at: datetime


def read_file(message: file_pb2.File) -> File:
    """Turn the contract's message into a File."""
    return File(
        file_id=message.file_id,
        org_id=message.org_id,
        name=message.name,
        content_type=message.content_type,
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        created_by=message.created_by,
        created_at=from_timestamp(message.created_at),
        job_id=message.job_id,
        state=_states.read(message.state),
        expires_at=from_timestamp(message.expires_at) if message.HasField("expires_at") else None,
        deleted_at=from_timestamp(message.deleted_at) if message.HasField("deleted_at") else None,
    )


def state_value(state: FileState | str) -> file_pb2.FileState.ValueType:
    """Return the contract's value of a state. ValueError with the states there are when there is no such one."""
    value: file_pb2.FileState.ValueType = _states.value(state)
    return value


def read_usage(message: file_pb2.FileUsage) -> FileUsage:
    """Turn the contract's message into a FileUsage."""
    limits = {name: getattr(message.limits, name) for name in _LIMITS}
    own = {name: getattr(message.own_limits, name) for name in _LIMITS if message.own_limits.HasField(name)}
    return FileUsage(
        message.org_id, message.total_bytes, message.files, FileLimits(**limits), FileLimits(**own)
    )


def to_limits(limits: FileLimits) -> files_service_pb2.FileLimitsUpdate:
    """Turn limits that are to be set into the contract's message."""
    return files_service_pb2.FileLimitsUpdate(
        max_total_bytes=limits.max_total_bytes,
        max_files=limits.max_files,
        max_file_bytes=limits.max_file_bytes,
    )


def to_limits_update(org_id: str, changes: Mapping[str, Any]) -> files_service_pb2.UpdateFileLimitsRequest:
    """Turn changes into the contract's message: their names are its mask.

    TypeError for a name that FileLimitChanges does not have; ValueError when there is none, which would mean all.
    """
    for name in changes:
        if name not in FileLimitChanges.__annotations__:
            raise TypeError(f'there is no limit "{name}"')
    if not changes:
        raise ValueError("give at least one limit to change")
    return files_service_pb2.UpdateFileLimitsRequest(
        org_id=org_id,
        limits=files_service_pb2.FileLimitsUpdate(**changes),
        update_mask=FieldMask(paths=changes),
    )
