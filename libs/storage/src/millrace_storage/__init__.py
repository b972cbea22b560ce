"""Object stores behind one interface, and the files kept in them."""

from millrace_database.file_list_statement import FileFilters
from millrace_database.file_usage_repository import FileLimits, FileUsage
from millrace_database.files_repository import FileRecord, FileState
from millrace_database.open_uploads_repository import OpenUpload
from millrace_storage.direct_uploads import Upload
from millrace_storage.file_errors import (
    ContentMismatch,
    ContentMissing,
    FileDeleted,
    FileMissing,
    LeaseLost,
    LimitExceeded,
    NothingUploaded,
    RangeBeyondEnd,
    StoreNotConfigured,
    TypeNotAllowed,
    UploadConfirmed,
    UploadGivenUp,
    UploadMissing,
)
from millrace_storage.file_policy import FileOptions, FilePolicy
from millrace_storage.file_store import (
    FileStore,
    FileStoreOptions,
    open_file_store,
    open_usable_file_store,
)
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.object_store import (
    InvalidKeyError,
    ObjectMissingError,
    ObjectStore,
    PresignedRequest,
    StoredObject,
    StoreRefusedError,
    StoreUnavailableError,
    StoreUnusableError,
    UnfinishedWrite,
)
from millrace_storage.object_stores import ObjectStores, open_object_stores
from millrace_storage.storage_options import StorageOptions

__all__ = [
    "ContentMismatch",
    "ContentMissing",
    "FileDeleted",
    "FileFilters",
    "FileLimits",
    "FileMissing",
    "FileOptions",
    "FilePolicy",
    "FileRecord",
    "FileState",
    "FileStore",
    "FileStoreOptions",
    "FileUsage",
    "InvalidKeyError",
    "LeaseLost",
    "LimitExceeded",
    "LocalObjectStore",
    "NothingUploaded",
    "ObjectMissingError",
    "ObjectStore",
    "ObjectStores",
    "OpenUpload",
    "PresignedRequest",
    "RangeBeyondEnd",
    "StorageOptions",
    "StoreNotConfigured",
    "StoreRefusedError",
    "StoreUnavailableError",
    "StoreUnusableError",
    "StoredObject",
    "TypeNotAllowed",
    "UnfinishedWrite",
    "Upload",
    "UploadConfirmed",
    "UploadGivenUp",
    "UploadMissing",
    "open_file_store",
    "open_object_stores",
    "open_usable_file_store",
]
