"""Where the local store writes what is no object yet, by names that tell of which object it will be."""

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

from millrace_storage.local_tree import LocalTree
from millrace_storage.object_store import InvalidKeyError, UnfinishedWrite, checked_key

# No key begins so.
INCOMING_FOLDER = ".incoming"
# Neither sign is in a key.
_SLASH = "+"
_RANDOM_BEGINS = "="
# File systems take names of 255 bytes.
_LONGEST_NAME = 250


def new_incoming_path(key: str) -> list[str]:
    """Return a path of its own for what is being written for `key`."""
    return incoming_path(f"{key.replace('/', _SLASH)}{_RANDOM_BEGINS}{uuid4().hex}")


def incoming_path(token: str) -> list[str]:
    """Return the path of what is being written under a token, a folder for each part of one that is too long for a name."""
    return [
        INCOMING_FOLDER,
        *(token[start : start + _LONGEST_NAME] for start in range(0, len(token), _LONGEST_NAME)),
    ]


def unfinished_write(token: str, begun_at: datetime) -> UnfinishedWrite | None:
    """Return what a token tells, or None when it is none.

    Those of releases before this one tell no key: the token stands in its place.
    """
    name = token.partition(_RANDOM_BEGINS)[0]
    try:
        return UnfinishedWrite(checked_key(name.replace(_SLASH, "/")), token, begun_at)
    except InvalidKeyError:
        return None


def unfinished_writes(tree: LocalTree) -> Iterator[UnfinishedWrite]:
    """Yield what lies below the folder, in no order; each step looks through one folder."""
    folders = [[INCOMING_FOLDER]]
    while folders:
        folder = folders.pop()
        for name, entry in tree.scan(folder):
            path = [*folder, name]
            if stat.S_ISDIR(entry.st_mode):
                folders.append(path)
            elif write := unfinished_write("".join(path[1:]), datetime.fromtimestamp(entry.st_mtime, UTC)):
                yield write
