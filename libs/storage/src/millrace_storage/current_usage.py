"""What the files of an organisation take up now, without those whose time is over."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from millrace_database import Database, file_usage_repository
from millrace_database.file_usage_repository import FileUsage
from millrace_database.storage_cleanup_repository import remove_expired_files_of
from millrace_storage.file_errors import LimitExceeded
from millrace_storage.file_policy import FilePolicy

_BATCH = 1_000

_Result = TypeVar("_Result")


class CurrentUsage:
    """Has expired files of an organisation removed before they keep others from being stored.

    Until the clean-up of the storage comes by they are counted, though nobody sees them. Who is within its limits, or has none,
    has nothing to do with this.
    """

    def __init__(self, database: Database, policy: FilePolicy) -> None:
        self._database = database
        self._policy = policy

    async def shown(self, org_id: str) -> FileUsage:
        """Return what the files take up, expired ones left out, and what they may."""
        await self._remove_expired(org_id)
        return await self._counted(org_id)

    async def before(self, org_id: str) -> FileUsage:
        """Return the same for who is about to store a file; without limits expired files may be among it."""
        usage = await self._counted(org_id)
        if not (usage.limits.max_files or usage.limits.max_total_bytes):
            return usage
        return await self.shown(org_id)

    async def with_room(self, org_id: str, attempt: Callable[[], Awaitable[_Result]]) -> _Result:
        """Return what `attempt` returns; if files exceed a limit, it is repeated without the expired ones.

        It is a transaction of its own, which changes nothing when it raises LimitExceeded.
        """
        try:
            return await attempt()
        except LimitExceeded as error:
            if error.limit not in ("files", "total_bytes"):
                raise
        await self._remove_expired(org_id)
        return await attempt()

    async def _counted(self, org_id: str) -> FileUsage:
        async with self._database.connection() as connection:
            return await file_usage_repository.get_usage(connection, org_id, self._policy.limits)

    async def _remove_expired(self, org_id: str) -> None:
        removed = _BATCH
        while removed == _BATCH:
            async with self._database.connection() as connection:
                removed = await remove_expired_files_of(connection, org_id, limit=_BATCH)
