"""Files of organisations on this machine."""

from pathlib import Path
from typing import Any

from millrace_database.database import Database
from millrace_database.file_usage_repository import LimitName
from millrace_runtime.settings import Settings
from millrace_storage import FilePolicy, FileStore, LocalObjectStore, ObjectStores


def local_files(database: Database, folder: Path, **settings: Any) -> FileStore:
    """Files whose objects are in a folder, as a service with these settings has them."""
    options = Settings(data_dir=folder, **settings)
    store = LocalObjectStore(folder / "files", files_url="http://127.0.0.1:1/")
    return FileStore(database, ObjectStores(options, store, None), FilePolicy.of(options))


def own_limits(
    max_total_bytes: int | None, max_files: int | None, max_file_bytes: int | None
) -> dict[LimitName, int | None]:
    """All limits of an organisation; None: as the server says."""
    return {"max_total_bytes": max_total_bytes, "max_files": max_files, "max_file_bytes": max_file_bytes}
