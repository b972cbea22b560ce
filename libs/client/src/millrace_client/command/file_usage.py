"""What the files of an organisation take up, on the screen."""

from millrace_client.command.output import Output
from millrace_client.file import FileUsage

_UNITS = ("TiB", "GiB", "MiB", "KiB")


def show_usage(output: Output, usage: FileUsage) -> None:
    """Print what files take up, and may: a line of JSON, or a name and a value on each line."""
    limits = usage.limits
    output.show(
        usage,
        for_people={
            "limits": "",
            "maxTotalBytes": _size_text(limits.max_total_bytes),
            "maxFiles": str(limits.max_files) if limits.max_files else "no limit",
            "maxFileBytes": _size_text(limits.max_file_bytes),
        },
    )


def _size_text(size: int | None) -> str:
    """Give a size as the options take it; 0 is none."""
    if not size:
        return "no limit"
    for power, unit in zip(range(4, 0, -1), _UNITS, strict=True):
        if size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)
