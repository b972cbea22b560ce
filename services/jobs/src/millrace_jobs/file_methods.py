"""What the methods of FilesService are made of."""

from millrace_storage import FileStore


class FileMethods:
    """Some methods of FilesService."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
