import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What ending takes beyond the grace period when all goes well: cancelling duties, closing connections.
_CLOSING_SECONDS = 1.0


@contextmanager
def stop_on_signal(request_stop: Callable[[], None], grace_seconds: float) -> Iterator[None]:
    """Call `request_stop` at the first SIGTERM or SIGINT; let the second one kill the process at once.

    A process that is not at an end `grace_seconds` and a little after the first signal, because something in it
    does not let itself be stopped, ends then with exit code 1.
    """
    loop = asyncio.get_running_loop()
    watchdog = threading.Timer(grace_seconds + _CLOSING_SECONDS, _give_up)
    watchdog.daemon = True

    def stop() -> None:
        for stop_signal in _STOP_SIGNALS:
            loop.remove_signal_handler(stop_signal)
            # Left to the system, the next signal works even when the event loop hangs.
            signal.signal(stop_signal, signal.SIG_DFL)
        watchdog.start()
        request_stop()

    for stop_signal in _STOP_SIGNALS:
        loop.add_signal_handler(stop_signal, stop)
    try:
        yield
    finally:
        watchdog.cancel()
        for stop_signal in _STOP_SIGNALS:
            loop.remove_signal_handler(stop_signal)


def _give_up() -> None:
    sys.stderr.write("millrace: something does not stop; ending the process\n")
    sys.stderr.flush()
    os._exit(1)
