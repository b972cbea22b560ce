"""One interface over object stores, and the files kept in them."""

from millrace_database.files_repository import FileRecord
from millrace_storage.file_store import ContentMismatch, ContentMissing, FileMissing, FileStore
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.object_store import InvalidKeyError, ObjectMissingError, ObjectStore, StoredObject
from millrace_storage.providers import open_object_store

__all__ = [
    "ContentMismatch",
    "ContentMissing",
    "FileMissing",
    "FileRecord",
    "FileStore",
    "InvalidKeyError",
    "LocalObjectStore",
    "ObjectMissingError",
    "ObjectStore",
    "StoredObject",
    "open_object_store",
]
