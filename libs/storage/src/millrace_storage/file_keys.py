"""The keys of the objects of files."""

import re
from uuid import UUID

FOLDERS = ("org-", "incoming/")
"""How keys begin behind their prefix: those of files, and of what is sent by presigned requests before it is confirmed."""

_KEY = re.compile(r"(?P<prefix>(?:.*/)?)(?:org-[^/]+|incoming)/[0-9a-f]{2}/[0-9a-f]{32}", re.ASCII)


def file_key(prefix: str, org_id: str, id_: UUID) -> str:
    """Return the key of a file's object; the last digits of the id are random: they spread the objects over 256 folders."""
    return f"{prefix}org-{org_id}/{id_.hex[-2:]}/{id_.hex}"


def staging_key(prefix: str, upload_id: UUID) -> str:
    """Return the key of what is sent by a presigned request, before it is confirmed."""
    return f"{prefix}incoming/{upload_id.hex[-2:]}/{upload_id.hex}"


def prefix_of(key: str) -> str | None:
    """Return what stands before a key of one of these forms, which is empty or ends with "/"; None: the key has another form."""
    found = _KEY.fullmatch(key)
    return found["prefix"] if found else None
