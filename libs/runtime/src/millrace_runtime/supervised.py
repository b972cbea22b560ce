"""A supervised process's side of its supervision; `supervisor` holds the other one.

Standard input is a socket to the supervisor. The process writes its address into it, as one line, then, before it says that
it serves, a line of JSON with what else it serves, and takes its end
for the supervisor's death, however sudden: it stops then as on SIGTERM. (A death signal from the kernel would exist
on Linux only, and would not let the process hand its work back.)
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import orjson

# What the process gets beyond its grace period before it is ended by force.
_SPARE_SECONDS = 2.0


class SupervisorLink:
    """The connection to the supervisor on standard input."""

    def __init__(self) -> None:
        self._socket = socket.socket(fileno=os.dup(sys.stdin.fileno()))

    def report(self, address: str) -> None:
        """Tell the supervisor where this process listens."""
        self._socket.sendall(f"{address}\n".encode())

    def report_urls(self, urls: Mapping[str, str]) -> None:
        """Tell the supervisor what else this process serves, by name."""
        self._socket.sendall(orjson.dumps(dict(urls)) + b"\n")

    def stop_when_lost(self, grace_seconds: float) -> None:
        """From now on, stop this process when the supervisor is gone, by force if it takes too long."""
        threading.Thread(target=self._watch, args=(grace_seconds,), name="supervisor", daemon=True).start()

    def _watch(self, grace_seconds: float) -> None:
        with suppress(OSError):
            self._socket.recv(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_seconds + _SPARE_SECONDS)
        os._exit(1)
