"""`millrace files`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from millrace_client.client import Millrace
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.output import Columns, Output
from millrace_client.command.register import command
from millrace_client.file import File
from millrace_client.upload import Progress as OnProgress
from millrace_client.upload import Source

app = typer.Typer(help="What jobs read and what they make.", no_args_is_help=True, add_completion=False)
accept_global_options(app)

FileId = Annotated[
    str, typer.Argument(metavar="FILE_ID", help="The file, as `millrace files list` names it: file_…")
]

_CHUNK_BYTES = 512 * 1024
_FILE_COLUMNS: Columns[File] = {
    "FILE ID": lambda file: file.file_id,
    "NAME": lambda file: file.name,
    "BYTES": lambda file: file.size_bytes,
    "CREATED": lambda file: file.created_at,
    "CREATED BY": lambda file: file.created_by or file.job_id,
}


@command(app, "upload")
async def upload(
    client: Millrace,
    output: Output,
    *,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The file; - reads standard input.")],
    name: Annotated[str | None, typer.Option(help="The name to store it under; needed with -.")] = None,
    content_type: Annotated[
        str, typer.Option(help="The media type; guessed from the name when not given.")
    ] = "",
) -> None:
    """Upload a file."""
    if path == "-" and name is None:
        raise typer.BadParameter("standard input needs a name", param_hint="--name")
    source: Source = _standard_input() if path == "-" else path
    with _bar() as on_progress:
        file = await client.files.upload(source, name, content_type=content_type, on_progress=on_progress)
    output.show(file)


@command(app, "download")
async def download(
    client: Millrace,
    output: Output,
    *,
    file_id: FileId,
    to: Annotated[
        str, typer.Option(metavar="PATH", help="A path or a folder; - writes to standard output.")
    ] = ".",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
) -> None:
    """Download a file, checked by its size and hash; without --to under its own name."""
    if to == "-":
        await client.files.download(file_id, sys.stdout.buffer)
        return
    path = await _target(client, file_id, to)
    if not force and await asyncio.to_thread(path.exists):
        raise typer.BadParameter(f"{path} exists; --force replaces it", param_hint="--to")
    with _bar() as on_progress:
        await client.files.download(file_id, path, on_progress=on_progress)
    if output.as_json:
        output.line({"path": str(path)})
    else:
        output.text(str(path))


@command(app, "list")
async def list_files(
    client: Millrace,
    output: Output,
    *,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
) -> None:
    """List files, newest first."""
    await output.table(_FILE_COLUMNS, client.files.list(limit=limit or None))


@command(app, "get")
async def get(client: Millrace, output: Output, file_id: FileId) -> None:
    """Show what is known of a file."""
    output.show(await client.files.get(file_id))


async def _target(client: Millrace, file_id: str, to: str) -> Path:
    if await asyncio.to_thread(os.path.isdir, to):
        return Path(to, Path((await client.files.get(file_id)).name).name)
    return Path(to)


async def _standard_input() -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(sys.stdin.buffer.read, _CHUNK_BYTES):
        yield chunk


@contextmanager
def _bar() -> Iterator[OnProgress]:
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
