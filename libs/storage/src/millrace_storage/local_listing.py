import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime

from millrace_storage.local_tree import LocalTree
from millrace_storage.object_store import InvalidKeyError, StoredObject, checked_key


def local_objects(tree: LocalTree, prefix: str, folders: tuple[str, ...] = ()) -> Iterator[StoredObject]:
    """Yield the objects of a tree whose keys start with `prefix`, by their keys.

    What is in one folder is held in memory, of all others nothing but the names on the path to it.
    """
    for name, found in sorted(tree.scan(folders), key=_listing_order):
        key = "/".join([*folders, name])
        if not _is_key(key):
            continue
        if stat.S_ISDIR(found.st_mode):
            if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                yield from local_objects(tree, prefix, (*folders, name))
        elif key.startswith(prefix):
            yield stored_object(key, found)


def stored_object(key: str, found: os.stat_result) -> StoredObject:
    """Return what the operating system tells of the file of an object."""
    return StoredObject(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _listing_order(entry: tuple[str, os.stat_result]) -> str:
    # A folder's keys go on with "/": so the keys come out sorted as a whole.
    name, found = entry
    return f"{name}/" if stat.S_ISDIR(found.st_mode) else name


def _is_key(name: str) -> bool:
    try:
        checked_key(name)
    except InvalidKeyError:
        return False
    return True
