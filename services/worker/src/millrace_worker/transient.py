"""Errors of the database that pass, and how a loop waits for that."""

import asyncio
import random

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from millrace_database.availability import DatabaseUnavailableError, is_unavailable

DATABASE_ERRORS = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    SQLAlchemyError,
    DatabaseUnavailableError,
)
"""What a database call may raise, whether it passes or not."""

_FIRST_PAUSE_SECONDS = 0.1
_LAST_PAUSE_SECONDS = 2.0

_log = structlog.get_logger(__name__)


def is_transient(error: BaseException) -> bool:
    """Whether the same statement may succeed later: the server is away, out of room, or undid a transaction."""
    return is_unavailable(error) or isinstance(
        error,
        asyncpg.DeadlockDetectedError
        | asyncpg.SerializationError
        | asyncpg.LockNotAvailableError
        | asyncpg.InsufficientResourcesError,
    )


class Outage:
    """The pauses and the log lines of one loop while the database fails it: one line at each end."""

    def __init__(self, duty: str) -> None:
        """Take what the loop does, for the log."""
        self._duty = duty
        self._pause = _FIRST_PAUSE_SECONDS
        self._reported = False

    async def wait(self, error: BaseException) -> None:
        """Pause, longer each time, with jitter. Raises `error` when it is none that passes."""
        if not is_transient(error):
            raise error
        if not self._reported:
            self._reported = True
            _log.warning("database fails", duty=self._duty, error=repr(error))
        await asyncio.sleep(random.uniform(self._pause / 2, self._pause))  # noqa: S311 - jitter is no secret
        self._pause = min(self._pause * 2, _LAST_PAUSE_SECONDS)

    def is_over(self) -> None:
        """Say that the database answered."""
        if self._reported:
            self._reported = False
            _log.info("database answers again", duty=self._duty)
        self._pause = _FIRST_PAUSE_SECONDS
