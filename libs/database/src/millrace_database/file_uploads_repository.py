"""Uploads: objects that may be in a store without being files yet."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import asyncpg

from millrace_database import file_statements
from millrace_database.files_repository import FileRecord, FileState, ObjectPlace


@dataclass(frozen=True, slots=True)
class NewUpload:
    """An object that is going to be written.

    Attributes:
        upload_id: its id.
        org_id: the organisation of the file.
        kind: "stream": by this process; "presigned": by whoever has the URL.
        name: the name of the file.
        content_type: its media type as given.
        place: where the object will be.
        created_by: who uploads it.
        size_bytes: its length as announced.
        sha256: its hash as announced.
        temporary: whether the file is to be kept for some time only.
        confirms: the presigned upload whose content it is; as long as that is open the content is not given up.

    """

    upload_id: UUID
    org_id: str
    kind: Literal["stream", "presigned"]
    name: str
    content_type: str
    place: ObjectPlace
    created_by: str
    size_bytes: int | None = None
    sha256: str | None = None
    temporary: bool = False
    confirms: UUID | None = None


@dataclass(frozen=True, slots=True)
class PresignedUpload:
    """An upload of kind "presigned"; `file_id` is the file that it has become, `is_open` whether it may still be confirmed."""

    upload_id: UUID
    org_id: str
    name: str
    content_type: str
    size_bytes: int
    sha256: str | None
    place: ObjectPlace
    created_by: str
    temporary: bool
    file_id: UUID | None
    is_open: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """What is known of an upload when its object is complete.

    `kept` is for how long the file is, if it is a temporary one.
    """

    file_id: UUID
    content_type: str
    size_bytes: int
    sha256: str
    job_id: UUID | None
    state: FileState
    kept: timedelta


@dataclass(frozen=True, slots=True)
class OpenUploads:
    """How many uploads an organisation has open that are to be confirmed, and how many bytes they announce."""

    uploads: int
    total_bytes: int


async def add_upload(conn: asyncpg.Connection, upload: NewUpload, kept: timedelta) -> datetime | None:
    """Say that an object is going to be written; None when there is an upload of this id.

    Returns the time from which on it counts as given up.
    """
    expires_at: datetime | None = await conn.fetchval(
        file_statements.ADD_UPLOAD,
        upload.upload_id,
        upload.org_id,
        upload.kind,
        upload.name,
        upload.content_type,
        upload.size_bytes,
        upload.sha256,
        upload.place.provider,
        upload.place.bucket,
        upload.place.object_key,
        upload.created_by,
        upload.temporary,
        upload.confirms,
        kept,
    )
    return expires_at


async def put_off_expiry(conn: asyncpg.Connection, upload: NewUpload, kept: timedelta) -> bool:
    """Say that a stream goes on. False: it has been given up."""
    arguments = (upload.upload_id, upload.place.object_key, kept)
    return await conn.fetchval(file_statements.PUT_OFF_EXPIRY, *arguments) is not None


async def finish_upload(conn: asyncpg.Connection, upload: NewUpload, finished: Finished) -> FileRecord | None:
    """Make a file of a stream whose object is complete. None: it has been given up. The caller counts the file in."""
    row = await conn.fetchrow(
        file_statements.FINISH_UPLOAD,
        upload.upload_id,
        upload.place.object_key,
        finished.file_id,
        finished.content_type,
        finished.size_bytes,
        finished.sha256,
        finished.job_id,
        finished.state,
        finished.kept,
    )
    return None if row is None else FileRecord(**row)


async def give_upload_up(conn: asyncpg.Connection, upload: NewUpload) -> bool:
    """Have the object of a stream removed. False: the stream is no upload any more."""
    arguments = (upload.upload_id, upload.place.object_key)
    return await conn.fetchrow(file_statements.GIVE_UPLOAD_UP, *arguments) is not None


async def set_aside(conn: asyncpg.Connection, upload: NewUpload) -> bool:
    """Leave a stream to whoever comes next: its row stays, and nobody finishes it. False: it is no upload any more."""
    arguments = (upload.upload_id, upload.place.object_key)
    return await conn.fetchval(file_statements.SET_ASIDE, *arguments) is not None


async def set_expired_aside(conn: asyncpg.Connection, upload_id: UUID) -> ObjectPlace | None:
    """Do the same with a stream on which nobody has written for so long that it counts as given up, or that is set aside.

    Returns where its object is, or None when there is no such stream.
    """
    row = await conn.fetchrow(file_statements.SET_EXPIRED_ASIDE, upload_id)
    return None if row is None else ObjectPlace(**row)


async def get_presigned(conn: asyncpg.Connection, org_id: str, upload_id: UUID) -> PresignedUpload | None:
    """Return an upload that is confirmed or to be confirmed, or None when there is none."""
    return _presigned(await conn.fetchrow(file_statements.GET_PRESIGNED, upload_id, org_id))


async def lock_presigned(conn: asyncpg.Connection, org_id: str, upload_id: UUID) -> PresignedUpload | None:
    """Do as `get_presigned`, and keep everybody else from changing it until the transaction ends."""
    return _presigned(await conn.fetchrow(file_statements.LOCK_PRESIGNED, upload_id, org_id))


async def confirm_presigned(conn: asyncpg.Connection, upload_id: UUID, file_id: UUID) -> None:
    """Say that an upload has become a file."""
    await conn.execute(file_statements.CONFIRM_PRESIGNED, upload_id, file_id)


async def cancel_presigned(conn: asyncpg.Connection, org_id: str, upload_id: UUID) -> ObjectPlace | None:
    """Give up an upload that is to be confirmed, and have removed what is sent until its URL is good for nothing.

    Returns where that goes, or None when there is no such upload or it is confirmed.
    """
    row = await conn.fetchrow(file_statements.CANCEL_PRESIGNED, upload_id, org_id)
    return None if row is None else ObjectPlace(**row)


async def open_uploads(conn: asyncpg.Connection, org_id: str) -> OpenUploads:
    """Return what an organisation has open."""
    row = await conn.fetchrow(file_statements.OPEN_PRESIGNED, org_id)
    assert row is not None  # noqa: S101 - an aggregate has a row
    return OpenUploads(**row)


def _presigned(row: asyncpg.Record | None) -> PresignedUpload | None:
    if row is None:
        return None
    columns = dict(row)
    place = ObjectPlace(columns.pop("provider"), columns.pop("bucket"), columns.pop("object_key"))
    return PresignedUpload(place=place, **columns)
