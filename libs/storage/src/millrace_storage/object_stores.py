"""All object stores that the settings tell of."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from millrace_storage.file_errors import StoreNotConfigured
from millrace_storage.local_object_store import LocalObjectStore
from millrace_storage.object_store import ObjectStore
from millrace_storage.storage_options import StorageOptions

_S3 = "s3"


class ObjectStores:
    """The store that new objects go to, and those that older ones may be in."""

    default: ObjectStore
    """The store of new objects."""

    prefix: str
    """What the keys of new objects begin with."""

    def __init__(
        self, options: StorageOptions, local: LocalObjectStore, s3: Callable[[str], ObjectStore] | None
    ) -> None:
        """Take what opens a bucket of the S3 server; None: the settings name no server's bucket."""
        self._local = local
        self._s3 = s3
        self._buckets: dict[str, ObjectStore] = {}
        self._own_bucket = options.s3_bucket
        self._s3_prefix = options.s3_prefix
        if options.storage_provider == LocalObjectStore.provider:
            self.default, self.prefix = local, ""
        elif options.storage_provider == _S3 and options.s3_bucket is not None:
            self.default, self.prefix = self._bucket(options.s3_bucket), options.s3_prefix
        else:
            raise StoreNotConfigured(options.storage_provider, options.s3_bucket or "")

    def of(self, provider: str, bucket: str) -> ObjectStore:
        """Return the store of an object; any bucket of the configured S3 server will do.

        Raises:
            StoreNotConfigured: there is no such provider, or the settings name no S3 bucket.

        """
        if provider == LocalObjectStore.provider:
            return self._local
        if provider == _S3:
            return self._bucket(bucket)
        raise StoreNotConfigured(provider, bucket)

    def all(self) -> Sequence[ObjectStore]:
        """Return the stores that the settings name; the local one also where it has only older objects."""
        stores: list[ObjectStore] = []
        if self.default is self._local or self._local.root.is_dir():
            stores.append(self._local)
        if self._own_bucket is not None:
            stores.append(self._bucket(self._own_bucket))
        return stores

    def prefix_in(self, store: ObjectStore) -> str:
        """Return what the keys of new objects in a store begin with, or would while new ones went there."""
        return "" if store is self._local else self._s3_prefix

    def _bucket(self, name: str) -> ObjectStore:
        if self._s3 is None:
            raise StoreNotConfigured(_S3, name)
        if name not in self._buckets:
            self._buckets[name] = self._s3(name)
        return self._buckets[name]

    async def close(self) -> None:
        """Close all stores."""
        for store in [self._local, *self._buckets.values()]:
            await store.close()


@asynccontextmanager
async def open_object_stores(options: StorageOptions) -> AsyncIterator[ObjectStores]:
    """Open the stores that the options name; no server is asked and no folder made before one is used.

    Raises:
        StoreNotConfigured: new objects would go to S3, and no bucket is named, or to a provider that does not exist.
        StoreUnusableError: there can be no such S3 server as is named.

    """
    async with AsyncExitStack() as stack:
        local = LocalObjectStore(options.data_dir / "files", files_url=options.files_url)
        stores = ObjectStores(options, local, await _s3(options, stack))
        stack.push_async_callback(stores.close)
        yield stores


async def _s3(options: StorageOptions, stack: AsyncExitStack) -> Callable[[str], ObjectStore] | None:
    if options.s3_bucket is None:
        return None
    # Takes 0.3 seconds to import, which those who keep no objects there do not have to wait.
    from millrace_storage.s3_client import S3Configuration, open_s3_clients  # noqa: PLC0415
    from millrace_storage.s3_object_store import S3ObjectStore  # noqa: PLC0415

    clients = await stack.enter_async_context(open_s3_clients(S3Configuration.of(options)))
    return lambda bucket: S3ObjectStore(clients, bucket)
