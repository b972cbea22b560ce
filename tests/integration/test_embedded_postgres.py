import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest

from millrace_database.connection_url import asyncpg_dsn
from millrace_database.embedded import EmbeddedPostgres, EmbeddedPostgresError, resolve_database

_USER = """
import sys
from pathlib import Path
from millrace_database.embedded import EmbeddedPostgres
with EmbeddedPostgres.start(Path(sys.argv[1]), durable=False) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def _start(data_dir: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres.start(data_dir, durable=False)


def _execute(url: str, statement: str) -> object:
    async def execute() -> object:
        connection = await asyncpg.connect(asyncpg_dsn(url))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(execute())


@contextmanager
def _user(data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that uses the server until it is told to leave."""
    command = [sys.executable, "-c", _USER, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline().startswith("postgresql")
        try:
            yield user
        finally:
            if user.poll() is None:
                user.kill()


def _leave(user: "subprocess.Popen[str]") -> None:
    assert user.stdin is not None
    user.stdin.close()
    assert user.wait(20) == 0


def _postmaster(data_dir: Path) -> psutil.Process:
    pid_file = data_dir / "postgres/cluster/postmaster.pid"
    return psutil.Process(int(pid_file.read_text().splitlines()[0]))


def _keeper(data_dir: Path) -> psutil.Process:
    return psutil.Process(int((data_dir / "postgres/keeper.lock").read_text()))


def _eventually(condition: Callable[[], bool], *, within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    with _start(tmp_path) as server:
        _execute(server.url, "CREATE TABLE kept AS SELECT 42 AS number")
        postmaster = _postmaster(tmp_path)
    assert _has_ended(postmaster)

    with _start(tmp_path) as server:
        assert _execute(server.url, "SELECT number FROM kept") == 42
        assert str(_execute(server.url, "SHOW server_version")).startswith("18.")


def test_commits_are_durable_unless_asked_otherwise(tmp_path: Path) -> None:
    with EmbeddedPostgres.start(tmp_path) as server:
        assert _execute(server.url, "SHOW fsync") == "on"
        assert _execute(server.url, "SHOW synchronous_commit") == "on"
        assert _execute(server.url, "SHOW full_page_writes") == "on"
        assert _execute(server.url, "SHOW listen_addresses") == ""


def test_stopping_twice_is_harmless(tmp_path: Path) -> None:
    server = _start(tmp_path)
    server.stop()
    server.stop()


def test_the_last_user_to_leave_stops_the_server(tmp_path: Path) -> None:
    with ExitStack() as users:
        first = users.enter_context(_user(tmp_path))
        server = users.enter_context(_start(tmp_path))
        second = users.enter_context(_user(tmp_path))
        postmaster = _postmaster(tmp_path)
        _leave(first)
        assert _execute(server.url, "SELECT 1") == 1
        server.stop()
        assert not _has_ended(postmaster)
        _leave(second)
        assert _has_ended(postmaster)


def test_a_killed_user_does_not_keep_the_server_alive(tmp_path: Path) -> None:
    with _user(tmp_path) as user:
        postmaster, keeper = _postmaster(tmp_path), _keeper(tmp_path)
        user.kill()
        _eventually(lambda: _has_ended(postmaster) and _has_ended(keeper))
    with _start(tmp_path) as server:
        assert _execute(server.url, "SELECT 1") == 1


def test_a_killed_user_does_not_harm_the_others(tmp_path: Path) -> None:
    with _start(tmp_path) as server, _user(tmp_path) as user:
        postmaster = _postmaster(tmp_path)
        user.kill()
        user.wait()
        time.sleep(0.5)  # five times as long as the keeper takes to see that a user is gone
        assert _execute(server.url, "SELECT 1") == 1
        assert _postmaster(tmp_path) == postmaster


def test_many_may_start_it_at_the_same_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _USER, str(tmp_path)]
    users = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    urls = {user.stdout.readline() for user in users if user.stdout is not None}
    postmaster = _postmaster(tmp_path)
    assert len(urls) == 1
    for user in users:
        _, _ = user.communicate()
        assert user.returncode == 0
    assert _has_ended(postmaster)


@pytest.mark.parametrize("victim", [_postmaster, _keeper])
def test_a_killed_server_or_keeper_is_replaced(
    tmp_path: Path, victim: Callable[[Path], psutil.Process]
) -> None:
    with _start(tmp_path) as server:
        _execute(server.url, "CREATE TABLE kept AS SELECT 42 AS number")
        postmaster = _postmaster(tmp_path)
        victim(tmp_path).kill()
        _eventually(lambda: _has_ended(postmaster))
        with _start(tmp_path) as again:
            assert _execute(again.url, "SELECT number FROM kept") == 42
            assert _postmaster(tmp_path) != postmaster


def test_everything_killed_at_once_is_recovered_from(tmp_path: Path) -> None:
    with _user(tmp_path) as user, _start(tmp_path) as server:
        _execute(server.url, "CREATE TABLE kept AS SELECT 42 AS number")
        postmaster, keeper = _postmaster(tmp_path), _keeper(tmp_path)
        keeper.suspend()
        postmaster.kill()
        keeper.kill()
        user.kill()
        _eventually(lambda: _has_ended(postmaster) and _has_ended(keeper))
        assert (tmp_path / "postgres/cluster/postmaster.pid").exists()
    with _start(tmp_path) as server:
        assert _execute(server.url, "SELECT number FROM kept") == 42


def test_the_number_of_a_dead_server_may_belong_to_another_program(tmp_path: Path) -> None:
    with _start(tmp_path):
        pid_file = tmp_path / "postgres/cluster/postmaster.pid"
        left_over = pid_file.read_text().splitlines()
    left_over[0] = str(os.getpid())
    pid_file.write_text("\n".join(left_over) + "\n")
    with _start(tmp_path) as server:
        assert _execute(server.url, "SELECT 1") == 1


def test_an_interrupted_first_start_is_made_up_for(tmp_path: Path) -> None:
    unfinished = tmp_path / "postgres/cluster.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    with _start(tmp_path) as server:
        assert _execute(server.url, "SELECT 1") == 1
    assert not unfinished.exists()


def test_a_deep_folder_with_blanks_is_no_trouble(tmp_path: Path) -> None:
    data_dir = tmp_path / "a folder" / ("deep" * 20) / ("deeper" * 20)
    with _start(data_dir) as server:
        assert _execute(server.url, "SELECT 1") == 1
        with _start(data_dir) as again:
            assert again.url == server.url


def test_a_foreign_folder_in_the_place_of_the_socket_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Of a folder with a long path the socket lies elsewhere.
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "postgres").mkdir()
    (folder / "postgres/socket").symlink_to(folder)
    with pytest.raises(EmbeddedPostgresError, match="somebody else"):
        _start(folder)


def test_a_relative_folder_is_one_of_the_place_where_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with _start(Path("data")) as server:
        monkeypatch.chdir("/")
        assert _execute(server.url, "SELECT 1") == 1
    assert (tmp_path / "data/postgres/cluster/PG_VERSION").exists()


def test_the_environment_of_the_user_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGHOST": "nowhere",
        "PGDATA": "/nonexistent",
        "LC_ALL": "xx_XX",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with _start(tmp_path) as server:
        monkeypatch.delenv("PGPORT")
        assert _execute(server.url, "SELECT 1") == 1


def test_the_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    cluster = tmp_path / "postgres/cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedPostgresError, match="PostgreSQL 12"):
        _start(tmp_path)


def test_a_server_that_does_not_start_is_an_error_that_shows_its_log(tmp_path: Path) -> None:
    with _start(tmp_path):
        pass
    (tmp_path / "postgres/cluster/postgresql.conf").write_text("nonsense\n")
    with pytest.raises(EmbeddedPostgresError, match="contains errors"):
        _start(tmp_path)


def test_ctrl_c_in_the_terminal_is_not_for_the_server(tmp_path: Path) -> None:
    with _user(tmp_path) as user:
        keeper = _keeper(tmp_path)
        assert os.getsid(keeper.pid) != os.getsid(user.pid)


async def test_a_given_url_is_used_and_an_embedded_one_made_without(
    tmp_path: Path, postgres_url: str
) -> None:
    given = postgres_url.replace("postgresql+asyncpg://", "postgres://")
    async with resolve_database(given, tmp_path) as url:
        assert url == postgres_url
    assert not (tmp_path / "postgres").exists()

    async with resolve_database(None, tmp_path) as url:
        connection = await asyncpg.connect(asyncpg_dsn(url))
        await connection.close()
        postmaster = _postmaster(tmp_path)
    assert _has_ended(postmaster)


async def test_starting_does_not_block_the_event_loop(tmp_path: Path) -> None:
    longest = 0.0

    async def measure() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    measuring = asyncio.create_task(measure())
    began = time.monotonic()
    async with resolve_database(None, tmp_path):
        took = time.monotonic() - began
    measuring.cancel()
    assert longest < took / 2


def test_a_signal_to_the_keeper_stops_the_server(tmp_path: Path) -> None:
    with _start(tmp_path):
        postmaster, keeper = _postmaster(tmp_path), _keeper(tmp_path)
        keeper.send_signal(signal.SIGTERM)
        _eventually(lambda: _has_ended(postmaster) and _has_ended(keeper))
