"""Files of organisations on this machine."""

from pathlib import Path
from typing import Any

from millrace_database.database import Database
from millrace_runtime.settings import Settings
from millrace_storage import FilePolicy, FileStore, LocalObjectStore, ObjectStores


def local_files(database: Database, folder: Path, **settings: Any) -> FileStore:
    """Files whose objects are in a folder, as a service with these settings has them."""
    options = Settings(data_dir=folder, **settings)
    store = LocalObjectStore(folder / "files", files_url="http://127.0.0.1:1/")
    return FileStore(database, ObjectStores(options, store, None), FilePolicy.of(options))
