import asyncpg
import pytest
from sqlalchemy import exc

from millrace_database import DatabaseUnavailableError, is_unavailable


@pytest.mark.parametrize(
    "error",
    [
        DatabaseUnavailableError("no connection"),
        ConnectionRefusedError("refused"),
        ConnectionResetError("reset"),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError("closed in the middle of operation"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.AdminShutdownError("terminating connection due to administrator command"),
        asyncpg.TooManyConnectionsError("too many clients"),
        asyncpg.InterfaceError("cannot call Connection.fetch(): connection is closed"),
        exc.TimeoutError("QueuePool limit reached"),
    ],
)
def test_a_database_that_is_away(error: Exception) -> None:
    assert is_unavailable(error)


@pytest.mark.parametrize(
    "error",
    [
        # A file of our own, and not the server's socket.
        FileNotFoundError("no such file"),
        asyncpg.UniqueViolationError("duplicate key"),
        asyncpg.InvalidPasswordError("password authentication failed"),
        asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
        ValueError("anything"),
    ],
)
def test_other_errors_are_no_outage(error: Exception) -> None:
    assert not is_unavailable(error)
