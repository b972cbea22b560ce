"""Uploads that go straight to the object store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from millrace.files.v1 import file_pb2
from millrace_client.values import from_timestamp


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that goes straight to the object store: send one HTTP request, then confirm it."""

    upload_id: str
    """The file that comes of it has the same digits."""
    org_id: str
    name: str
    """The name that the file will have."""
    content_type: str
    size_bytes: int
    """The length that was announced."""
    sha256: str
    """The SHA-256 that was announced; empty: none was."""
    created_by: str
    created_at: datetime
    expires_at: datetime
    """The URL is no longer taken from this time on; an upload that is not confirmed by then is removed."""
    temporary: bool
    url: str = field(default="", repr=False)
    """Where to send the content: whoever knows it can upload, so it is for no log. Only `initiate_upload` tells this and the rest."""
    method: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """To be sent exactly so."""


def read_upload(message: file_pb2.Upload) -> Upload:
    """Turn the contract's message into an Upload."""
    return Upload(
        upload_id=message.upload_id,
        org_id=message.org_id,
        name=message.name,
        content_type=message.content_type,
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        created_by=message.created_by,
        created_at=from_timestamp(message.created_at),
        expires_at=from_timestamp(message.expires_at),
        temporary=message.temporary,
        url=message.url,
        method=message.method,
        headers=dict(message.headers),
    )
