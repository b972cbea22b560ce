"""What processes use of the machine."""

import psutil

from millrace_database.database import Database
from support.processes import ServiceProcess


async def postgres(database: Database) -> psutil.Process:
    """The first process of the server, the parent of all others."""
    async with database.connection() as connection:
        backend = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
    parent = backend.parent()
    assert parent is not None
    return parent


def cpu_seconds(process: psutil.Process) -> float:
    """The CPU time that the process and its children, living or dead, have used."""
    living = (child.cpu_times() for child in process.children())
    own = process.cpu_times()
    dead = own.children_user + own.children_system
    return dead + own.user + own.system + sum(times.user + times.system for times in living)


def service(running: ServiceProcess) -> psutil.Process:
    return psutil.Process(running.pid)


def megabytes(running: ServiceProcess) -> float:
    """The memory that the service holds (RSS)."""
    return megabytes_of(running.pid)


def megabytes_of(pid: int) -> float:
    """The memory that a process holds (RSS); 0: it has ended."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / 1_000_000
    except psutil.NoSuchProcess:
        return 0.0
