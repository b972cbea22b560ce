"""The benchmark: `make bench`, described in docs/performance.md."""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import report
from bench.figures import FIGURES
from bench.line import Line
from bench.rounds import Bench
from bench.scale import QUICK, Scale
from bench.surroundings import surroundings

_TABLE_WIDTH = 190
_INTERRUPTED = 130
_console = Console(stderr=True, highlight=False)


async def run(names: Sequence[str], scale: Scale, measured: dict[str, Sequence[Line]]) -> None:
    """Take the figures of these names on a new embedded Postgres with durable commits, and put them into `measured`."""
    # Ended by anything but SIGKILL, the services and Postgres are stopped first.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    free = asyncio.Semaphore(scale.at_once)

    async def take(name: str) -> None:
        async with free:
            try:
                measured[name] = await FIGURES[name](Bench(around, scale, _teller(name)))
            except Exception:
                _console.print(around.service_logs(), markup=False, soft_wrap=True)
                raise

    async with surroundings() as around, asyncio.TaskGroup() as figures:
        for name in names:
            figures.create_task(take(name))


def main() -> int:
    arguments = _arguments()
    scale = _scale(arguments)
    names = [name for name in FIGURES if name in arguments.figures] or list(FIGURES)
    measured: dict[str, Sequence[Line]] = {}
    try:
        asyncio.run(run(names, scale, measured))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _INTERRUPTED
    finally:
        # Also when it was interrupted: a full run is long.
        if measured:
            _report({name: measured[name] for name in names if name in measured}, scale, arguments.json)
    return 0


def _report(measured: Mapping[str, Sequence[Line]], scale: Scale, path: Path | None) -> None:
    if path is not None:
        path.write_text(report.as_json(measured, scale) + "\n")
    Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(report.table(measured))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure Millrace beside the bare statements on the same Postgres."
    )
    parser.add_argument(
        "figures", nargs="*", metavar="FIGURE", help=f"some of: {', '.join(FIGURES)} (default: all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="take each figure once, on too little to mean anything"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write what was measured to a file")
    parser.add_argument("--rounds", type=_positive, help="how often each figure is taken")
    parser.add_argument("--jobs", type=_positive, help="jobs created or drained at a time")
    parser.add_argument("--waiting", type=_positive, help="other entries that wait, ready or future ones")
    parser.add_argument("--history", type=_positive, help="finished jobs in the tables")
    parser.add_argument("--open-seconds", type=float, help="how long a transaction is held open")
    arguments = parser.parse_args()
    if unknown := set(arguments.figures) - set(FIGURES):
        parser.error(f"no figure: {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    return arguments


def _scale(arguments: argparse.Namespace) -> Scale:
    options = ("rounds", "jobs", "waiting", "history", "open_seconds")
    given = {name: value for name in options if (value := getattr(arguments, name)) is not None}
    return replace(QUICK if arguments.quick else Scale(), **given)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _teller(figure: str) -> Callable[[str], None]:
    """Return what tells people what is being done, since when."""
    return lambda what: _console.print(
        f"{time.strftime('%H:%M:%S')} {figure}: {what}", style="dim", markup=False
    )


if __name__ == "__main__":
    sys.exit(main())
