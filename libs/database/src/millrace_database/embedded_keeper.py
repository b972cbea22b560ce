"""The process that keeps one embedded Postgres: runs it while anybody uses it, and stops it afterwards.

A script of its own, run by `embedded.py` with the standard library alone, so that it starts fast and outlives
whoever started it. Its users hold a shared lock on the folder's `users.lock` for as long as they live; the kernel
takes it away from the dead. So the keeper, which may lock the file for itself only once all users are gone, needs
neither a list of them nor a farewell. It holds `keeper.lock` for its own life: there is one keeper to a folder.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

UNPRIVILEGED_USER = "nobody"
"""Who Postgres runs as when Millrace runs as root, which Postgres refuses."""

USERS_POLL_SECONDS = 0.1
"""How often a keeper looks whether its users are gone."""

_FIRST_RESTART_SECONDS = 0.1
_FAILED_START_SECONDS = 2.0
_MOST_FAILURES = 5
_STOP_SECONDS = 20.0

# From <linux/prctl.h> and <linux/capability.h>.
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522


class _Owner(NamedTuple):
    uid: int
    gid: int


def main() -> int:
    """Keep the server of the given folder until its last user has left.

    Returns 0 then, or when another keeper keeps it already; 1 when the server does not start.
    """
    arguments = _arguments()
    lock = _keeper_lock(arguments.folder)
    if lock is None:
        return 0
    # Away from the terminal: Ctrl-C is for the users, who still need the server while they stop.
    os.setsid()
    os.chdir("/")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    cluster = arguments.folder / "cluster"
    owner = _owner(cluster)
    prepare = _privileges(owner, arguments)
    # Whoever left last may just have removed it.
    arguments.sockets.mkdir(mode=0o700, exist_ok=True)
    if owner is not None:
        os.chown(arguments.sockets, owner.uid, owner.gid)
    _make_cluster(arguments, cluster, owner, prepare)
    _end_orphan(cluster)
    try:
        return _keep(arguments, cluster, prepare)
    finally:
        # Of a deep data folder it lies in the folder for temporary files.
        with contextlib.suppress(OSError):
            arguments.sockets.rmdir()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("binaries", type=Path)
    parser.add_argument("sockets", type=Path)
    parser.add_argument("--initdb-option", action="append", default=[])
    parser.add_argument("--setting", action="append", default=[])
    return parser.parse_args()


def _keeper_lock(folder: Path) -> int | None:
    lock = os.open(folder / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def _owner(cluster: Path) -> _Owner | None:
    """Return who Postgres has to run as, when that is not who we are: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    if cluster.exists() and cluster.stat().st_uid != 0:
        return _Owner(cluster.stat().st_uid, cluster.stat().st_gid)
    user = pwd.getpwnam(UNPRIVILEGED_USER)
    return _Owner(user.pw_uid, user.pw_gid)


def _make_cluster(
    arguments: argparse.Namespace, cluster: Path, owner: _Owner | None, prepare: Callable[[], None]
) -> None:
    if cluster.exists():
        return
    # Made beside its place and moved there when it is complete: an interrupted initdb leaves nothing to repair.
    unfinished = cluster.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if owner is not None:
        os.chown(unfinished, owner.uid, owner.gid)
    subprocess.run(  # noqa: S603 - our own binary
        [arguments.binaries / "initdb", "--pgdata", unfinished, *arguments.initdb_option],
        check=True,
        stdin=subprocess.DEVNULL,
        env=_environment(),
        preexec_fn=prepare,
    )
    unfinished.rename(cluster)


def _keep(arguments: argparse.Namespace, cluster: Path, prepare: Callable[[], None]) -> int:
    users = os.open(arguments.folder / "users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    settings = [part for setting in arguments.setting for part in ("-c", setting)]
    failures = 0
    while failures < _MOST_FAILURES:
        started = time.monotonic()
        server = subprocess.Popen(  # noqa: S603 - our own binary
            [arguments.binaries / "postgres", "-D", cluster, "-k", arguments.sockets, *settings],
            stdin=subprocess.DEVNULL,
            env=_environment(),
            preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
        )
        try:
            if _users_left(server, users):
                return 0
        finally:
            _stop(server)
        failures = failures + 1 if time.monotonic() - started < _FAILED_START_SECONDS else 0
        time.sleep(_FIRST_RESTART_SECONDS * 2**failures)
    return 1


def _users_left(server: "subprocess.Popen[bytes]", users: int) -> bool:
    """Wait until the users are gone: True. Or until the server has ended by itself: False."""
    while server.poll() is None:
        try:
            # Never unlocked but by our end: whoever comes now waits for it, and then starts anew.
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(USERS_POLL_SECONDS)
        else:
            return True
    return False


def _stop(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is not None:
        return
    server.send_signal(signal.SIGINT)
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # Recovery at the next start is safe; a server that nobody can stop is not.
        server.kill()
        server.wait()


def _end_orphan(cluster: Path) -> None:
    """Stop the server that an earlier keeper left behind when it was killed."""
    pid_file = cluster / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return
    if str(cluster) not in _command_line(pid):
        if _command_line(pid):
            # Another program has the number now; Postgres would take it for a server and not start.
            pid_file.unlink()
        return
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + _STOP_SECONDS
    while _command_line(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGQUIT)
        time.sleep(USERS_POLL_SECONDS)


def _command_line(pid: int) -> str:
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    shown = subprocess.run(  # noqa: S603 - a fixed command
        ["ps", "-ww", "-o", "command=", "-p", str(pid)],  # noqa: S607 - found on every system
        check=False,
        capture_output=True,
        text=True,
    )
    return shown.stdout.strip()


def _environment() -> dict[str, str]:
    # Nothing of the caller's environment may change the server, least of all PG* variables.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _privileges(owner: _Owner | None, arguments: argparse.Namespace) -> Callable[[], None]:
    """Return what a child does before it becomes Postgres: give up root, and agree to end with this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    closed = not all(map(_is_open, (arguments.binaries / "postgres", arguments.folder, arguments.sockets)))

    def prepare() -> None:
        if owner is not None:
            if closed:
                libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
            os.setgroups([])
            os.setgid(owner.gid)
            os.setuid(owner.uid)
            if closed:
                _keep_file_access(libc)
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)

    return prepare


def _is_open(path: Path) -> bool:
    """Tell whether every user can reach the path."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def _keep_file_access(libc: ctypes.CDLL) -> None:
    """Keep root's access to files where a folder on the way, such as /root, is closed to other users.

    The alternative, opening those folders to everybody, would change what does not belong to Millrace.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    mask = 1 << _CAP_DAC_OVERRIDE
    # Effective, permitted, inheritable: of the lower 32 capabilities, then of the upper ones.
    libc.capset(header, (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0))
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
