"""An embedded Postgres that a test can stop and bring back, while its services keep running."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def stopped(data_dir: Path) -> Iterator[None]:
    """Shuts the server down for the length of the block; connections are refused meanwhile."""
    keeper = int((data_dir / "postgres" / "keeper.lock").read_text())
    # While its keeper is stopped nobody starts the server anew.
    os.kill(keeper, signal.SIGSTOP)
    try:
        server = psutil.Process(_postmaster(data_dir))
        server.send_signal(signal.SIGINT)
        yield
    finally:
        os.kill(keeper, signal.SIGCONT)


@contextmanager
def frozen(data_dir: Path) -> Iterator[None]:
    """Halts every process of the server for the length of the block; nothing is answered meanwhile."""
    server = psutil.Process(_postmaster(data_dir))
    server.suspend()
    processes = [server, *server.children(recursive=True)]
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in reversed(processes):
            process.resume()


def _postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "cluster" / "postmaster.pid").read_text().split()[0])
