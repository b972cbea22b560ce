"""`millrace files uploads`."""

import shlex
from datetime import timedelta
from typing import Annotated

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.output import Columns, Output, one_more
from millrace_client.command.register import command
from millrace_client.file_upload import Upload

app = typer.Typer(
    help="Uploads that go straight to the object store: begin them for others, and see those that are open.",
    no_args_is_help=True,
    add_completion=False,
)
accept_global_options(app)

UploadId = Annotated[
    str,
    typer.Argument(
        metavar="UPLOAD_ID", help="The upload, as `millrace files uploads list` names it: upload_…"
    ),
]

_COLUMNS: Columns[Upload] = {
    "UPLOAD ID": lambda upload: upload.upload_id,
    "NAME": lambda upload: upload.name,
    "BYTES": lambda upload: upload.size_bytes,
    "CREATED": lambda upload: upload.created_at,
    "CREATED BY": lambda upload: upload.created_by,
    "EXPIRES": lambda upload: upload.expires_at,
}


@command(app, "begin")
async def begin(
    client: Millrace,
    output: Output,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that the file will have.")],
    size: Annotated[
        int,
        typer.Option(
            parser=parse.size,
            metavar="SIZE",
            help="Its exact length, in bytes or such as 3MiB; 5GiB at most.",
        ),
    ],
    content_type: Annotated[
        str, typer.Option(help="The media type; guessed from the name when not given.")
    ] = "",
    sha256: Annotated[str, typer.Option("--sha256", help="The SHA-256 that it is to have.")] = "",
    temporary: Annotated[
        bool, typer.Option("--temporary", help="The file goes after a day, unless it is persisted.")
    ] = False,
    expires_in: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse.length, metavar="LENGTH", help="How long: 1s to 24h; one hour when not given."
        ),
    ] = None,
) -> None:
    """Give the request by which anyone who knows it can upload a file; `confirm` makes a file of it."""
    upload = await client.files.initiate_upload(
        name,
        size,
        content_type=content_type,
        sha256=sha256,
        temporary=temporary,
        expires_in=expires_in,
    )
    # Folded to the width of a terminal a URL would be good for nothing.
    output.show(upload, for_people=dict.fromkeys(("url", "method", "headers"), ""))
    if not output.as_json:
        output.text(_request(upload, name))


def _request(upload: Upload, path: str) -> str:
    """Give the request as a line for a shell; its length is that of what is sent."""
    headers = [f"{name}: {value}" for name, value in upload.headers.items() if name != "Content-Length"]
    options = [word for header in headers for word in ("--header", header)]
    # By itself curl takes brackets and braces for patterns, and "-" for standard input.
    source = ["--upload-file", f"./{path}"]
    return shlex.join(
        ["curl", "--globoff", "--fail", "--request", upload.method, *options, *source, upload.url]
    )


@command(app, "list")
async def list_uploads(
    client: Millrace,
    output: Output,
    *,
    created_by: Annotated[str, typer.Option("--created-by", help="Begun by this one.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
) -> None:
    """List the uploads that can still be confirmed, newest first."""
    await output.table(
        _COLUMNS, client.files.list_uploads(created_by=created_by, limit=one_more(limit)), limit
    )


@command(app, "confirm")
async def confirm(client: Millrace, output: Output, upload_id: UploadId) -> None:
    """Make a file of what was uploaded, and show it."""
    output.show(await client.files.confirm_upload(upload_id))


@command(app, "cancel")
async def cancel(client: Millrace, output: Output, upload_id: UploadId) -> None:
    """Give an upload up, and remove what was uploaded."""
    await client.files.cancel_upload(upload_id)
    if output.as_json:
        output.line({"uploadId": upload_id})
    else:
        output.text(f"cancelled {upload_id}")
