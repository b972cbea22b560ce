"""`millrace files`."""

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from millrace_client.client import Millrace
from millrace_client.command import file_uploads, parse
from millrace_client.command.file_usage import show_usage
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.job_filters import CreatedAfterOption, CreatedBeforeOption
from millrace_client.command.output import Columns, Output, one_more
from millrace_client.command.parse import OwnLimit
from millrace_client.command.register import command
from millrace_client.command.several import each
from millrace_client.command.standard_input import is_stream, standard_input, streamed
from millrace_client.command.transfer import (
    ForceOption,
    ResumeOption,
    ToOption,
    explaining_failure,
    show_path,
    show_resumed,
    target_path,
    transfer_bar,
)
from millrace_client.file import File, FileState
from millrace_client.upload import Source
from millrace_client.values import is_utf8

app = typer.Typer(help="What jobs read and what they make.", no_args_is_help=True, add_completion=False)
accept_global_options(app)
app.add_typer(file_uploads.app, name="uploads")

FileId = Annotated[
    str, typer.Argument(metavar="FILE_ID", help="The file, as `millrace files list` names it: file_…")
]
FileIds = Annotated[
    list[str],
    typer.Argument(metavar="FILE_ID", help="The files, as `millrace files list` names them: file_…"),
]

StatesOption = Annotated[
    list[FileState] | None,
    typer.Option(
        "--state",
        parser=parse.member(FileState),
        metavar="STATE",
        help="Files in this state; any of them when repeated. All but deleted ones when not given.",
    ),
]
ContentTypesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--content-type",
        metavar="TYPE",
        help="Of this media type, in any case, with any parameters unless it has some; any of them when repeated.",
    ),
]

_FILE_COLUMNS: Columns[File] = {
    "FILE ID": lambda file: file.file_id,
    "NAME": lambda file: file.name,
    "BYTES": lambda file: file.size_bytes,
    "CREATED": lambda file: file.created_at,
    "CREATED BY": lambda file: file.created_by or file.job_id,
    "STATE": lambda file: file.state,
    "EXPIRES": lambda file: file.expires_at,
}


@command(app, "upload")
async def upload(
    client: Millrace,
    output: Output,
    *,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="The files, or a pipe; - reads standard input."),
    ],
    name: Annotated[
        str | None, typer.Option(help="The name to store it under; needed with - and pipes.")
    ] = None,
    content_type: Annotated[
        str, typer.Option(help="The media type; guessed from the name when not given.")
    ] = "",
    temporary: Annotated[
        bool, typer.Option("--temporary", help="It goes after a day, unless it is persisted.")
    ] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="Send the content straight to the object store.")
    ] = False,
) -> None:
    """Upload files."""
    if len(paths) > 1 and name is not None:
        raise typer.BadParameter("it can be that of one file only", param_hint="--name")

    async def upload_one(path: str) -> None:
        _check_source(path, name, direct=direct)
        with transfer_bar() as on_progress:
            if direct:
                file = await client.files.upload_directly(
                    path, name, content_type=content_type, temporary=temporary, on_progress=on_progress
                )
            else:
                file = await client.files.upload(
                    _source(path),
                    name,
                    content_type=content_type,
                    temporary=temporary,
                    on_progress=on_progress,
                )
        _show(output, file, paths)

    await each(paths, upload_one)


def _check_source(path: str, name: str | None, *, direct: bool) -> None:
    stream = path == "-" or is_stream(path)
    what = "standard input" if path == "-" else path
    if stream and name is None:
        raise typer.BadParameter(f"{what} needs a name", param_hint="--name")
    if stream and direct:
        raise typer.BadParameter(f"{what} has no size that could be announced", param_hint="--direct")
    if name is None and not is_utf8(path):
        raise typer.BadParameter("the name of the file is not UTF-8: give another", param_hint="--name")


def _show(output: Output, file: File, asked: Sequence[str]) -> None:
    """Show a file: what there is of it, or a line of each when several were asked for."""
    if output.as_json or len(asked) == 1:
        output.show(file)
    else:
        output.text(f"{file.file_id} {file.state} {file.name}")


def _source(path: str) -> Source:
    if path == "-":
        return standard_input()
    return streamed(path) if is_stream(path) else path


@command(app, "download")
async def download(
    client: Millrace,
    output: Output,
    *,
    file_ids: FileIds,
    to: ToOption = ".",
    force: ForceOption = False,
    resume: ResumeOption = True,
) -> None:
    """Download files, checked by their sizes and hashes; without --to under their own names."""
    if to == "-" and len(file_ids) == 1:
        await client.files.download(file_ids[0], sys.stdout.buffer)
        return
    if len(file_ids) > 1 and not await asyncio.to_thread(os.path.isdir, to):
        raise typer.BadParameter("several files need a folder", param_hint="--to")

    written: set[Path] = set()

    async def download_one(file_id: str) -> None:
        path = await target_path(to, lambda: client.files.get(file_id), force=force)
        if path in written:
            raise typer.BadParameter(f"{path} is another of these files", param_hint="--to")
        written.add(path)
        with transfer_bar() as on_progress, explaining_failure(path, force=force):
            await client.files.download(
                file_id, path, resume=resume, replace=force, on_progress=on_progress, on_resume=show_resumed
            )
        show_path(output, path)

    await each(file_ids, download_one)


@command(app, "list")
async def list_files(
    client: Millrace,
    output: Output,
    *,
    states: StatesOption = None,
    name: Annotated[str, typer.Option(help="The name begins with this.")] = "",
    created_by: Annotated[str, typer.Option("--created-by", help="Uploaded by this one.")] = "",
    job_id: Annotated[str, typer.Option("--job", metavar="JOB_ID", help="Made by this job.")] = "",
    content_types: ContentTypesOption = None,
    created_after: CreatedAfterOption = None,
    created_before: CreatedBeforeOption = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
) -> None:
    """List files, newest first."""
    files = client.files.list(
        states=states or (),
        name_prefix=name,
        created_by=created_by,
        job_id=job_id,
        content_types=content_types or (),
        created_after=created_after,
        created_before=created_before,
        limit=one_more(limit),
    )
    await output.table(_FILE_COLUMNS, files, limit)


@command(app, "get")
async def get(client: Millrace, output: Output, file_id: FileId) -> None:
    """Show what is known of a file."""
    output.show(await client.files.get(file_id))


@command(app, "url")
async def url(
    client: Millrace,
    output: Output,
    *,
    file_id: FileId,
    expires_in: Annotated[
        timedelta | None,
        typer.Option(parser=parse.length, metavar="LENGTH", help="1s to 7d; one hour when not given."),
    ] = None,
) -> None:
    """Give a URL from which anyone who knows it can download a file for some time."""
    answer = await client.files.download_url(file_id, expires_in=expires_in)
    if output.as_json:
        output.show(answer)
    else:
        output.text(answer.url)


@command(app, "persist")
async def persist(client: Millrace, output: Output, file_ids: FileIds) -> None:
    """Keep files, temporary ones or those of jobs, until somebody deletes them."""

    async def persist_one(file_id: str) -> None:
        _show(output, await client.files.persist(file_id), file_ids)

    await each(file_ids, persist_one)


@command(app, "delete")
async def delete(
    client: Millrace,
    output: Output,
    *,
    file_ids: FileIds,
    permanently: Annotated[
        bool, typer.Option("--permanently", help="They cannot be undeleted; their content goes soon.")
    ] = False,
) -> None:
    """Delete files; for some days `undelete` brings them back."""

    async def delete_one(file_id: str) -> None:
        deleted = await client.files.delete(file_id, permanently=permanently)
        if deleted is not None:
            _show(output, deleted, file_ids)
        elif output.as_json:
            output.line({"fileId": file_id})
        else:
            output.text(f"deleted {file_id} permanently")

    await each(file_ids, delete_one)


@command(app, "undelete")
async def undelete(client: Millrace, output: Output, file_ids: FileIds) -> None:
    """Bring deleted files back as what they were before."""

    async def undelete_one(file_id: str) -> None:
        _show(output, await client.files.undelete(file_id), file_ids)

    await each(file_ids, undelete_one)


@command(app, "usage")
async def usage(client: Millrace, output: Output) -> None:
    """Show what the organisation's files take up, and what they may."""
    show_usage(output, await client.files.usage())


@command(app, "limits")
async def set_limits(
    client: Millrace,
    output: Output,
    *,
    max_total_bytes: Annotated[
        OwnLimit | None,
        typer.Option(
            parser=parse.own_limit(parse.size),
            metavar="SIZE",
            help='All files together, such as "10GiB"; 0: no limit; default: as the server says.',
        ),
    ] = None,
    max_files: Annotated[
        OwnLimit | None,
        typer.Option(
            parser=parse.own_limit(parse.count),
            metavar="COUNT",
            help="How many there may be; 0: no limit; default: as the server says.",
        ),
    ] = None,
    max_file_bytes: Annotated[
        OwnLimit | None,
        typer.Option(
            parser=parse.own_limit(parse.size),
            metavar="SIZE",
            help="A single file; 0: no limit; default: as the server says.",
        ),
    ] = None,
) -> None:
    """Set what the organisation's files may take up, for operators. What is not given stays; without any, show all."""
    given = {
        "max_total_bytes": max_total_bytes,
        "max_files": max_files,
        "max_file_bytes": max_file_bytes,
    }
    changes: Any = {name: limit.value for name, limit in given.items() if limit is not None}
    usage = await (client.files.update_limits(**changes) if changes else client.files.usage())
    show_usage(output, usage)
