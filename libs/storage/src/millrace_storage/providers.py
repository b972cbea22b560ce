"""The kinds of object store, by name."""

from pathlib import Path

from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.object_store import ObjectStore


def open_object_store(provider: str, *, data_dir: Path) -> ObjectStore:
    """Return the object store of a provider; nothing is touched before its first use.

    Args:
        provider: "local": files under ``<data_dir>/files``.
        data_dir: the folder for what is kept on this machine.

    Raises:
        ValueError: there is no such provider.

    """
    if provider == LocalObjectStore.provider:
        return LocalObjectStore(data_dir / "files")
    raise ValueError(f"there is no object store {provider!r}; there is: local")
