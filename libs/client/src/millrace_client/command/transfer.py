"""What the commands that send or receive content have in common."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from millrace_client.command.output import Output
from millrace_client.download import is_special, safe_file_name
from millrace_client.file import File
from millrace_client.upload import Progress as OnProgress

ToOption = Annotated[
    str, typer.Option(metavar="PATH", help="A path or a folder; - writes to standard output.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")]

ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume",
        help="Go on where a download to this path has stopped, and keep what has arrived for the next.",
    ),
]


async def target_path(to: str, describe: Callable[[], Awaitable[File]], *, force: bool) -> Path:
    """Return the path that `to` stands for: in a folder under the name of the file that `describe` returns.

    Raises BadParameter when something is there already, and is not to be replaced, or is no file, or a folder is meant that is
    not there.
    """
    path = Path(to)
    if await asyncio.to_thread(os.path.isdir, to):
        path /= safe_file_name(await describe())
    elif to.endswith(("/", os.sep)):
        raise typer.BadParameter(f"there is no folder {to}", param_hint="--to")
    if await asyncio.to_thread(is_special, path):
        raise typer.BadParameter(
            f"{path} is no regular file, and is not replaced; --to - writes to standard output",
            param_hint="--to",
        )
    # A link that leads nowhere is something, too.
    if not force and await asyncio.to_thread(os.path.lexists, path):
        raise _taken(path)
    return path


def _taken(path: Path) -> typer.BadParameter:
    return typer.BadParameter(f"{path} exists; --force replaces it", param_hint="--to")


def show_resumed(done: int, total: int) -> None:
    """Say on standard error that a download goes on with what an earlier one has left."""
    sys.stderr.write(f"{done:,} of {total:,} bytes are there already; going on from there\n")


def show_path(output: Output, path: Path) -> None:
    """Say where the content is."""
    if output.as_json:
        output.line({"path": str(path)})
    else:
        output.text(str(path))


@contextmanager
def explaining_failure(path: Path, *, force: bool) -> Iterator[None]:
    """Say on standard error what a download that fails has kept for the next.

    Raises BadParameter when something has appeared at the path meanwhile that is not to be replaced.
    """
    try:
        yield
    except BaseException as error:
        for note in getattr(error, "__notes__", ()):
            sys.stderr.write(f"{note}\n")
        if isinstance(error, FileExistsError) and not force:
            raise _taken(path) from error
        raise


@contextmanager
def transfer_bar() -> Iterator[OnProgress]:
    """Draw a transfer's progress on standard error while it is a terminal."""
    from rich.progress import (  # noqa: PLC0415 - only here, since it slows the start of every command
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
