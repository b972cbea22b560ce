"""What the files of an organisation take up, on the screen."""

from millrace_client.command.output import Output
from millrace_client.file import FileUsage

_UNITS = ("TiB", "GiB", "MiB", "KiB")


def show_usage(output: Output, usage: FileUsage) -> None:
    """Print what files take up, and may: a line of JSON, or a name and a value on each line."""
    limits, own = usage.limits, usage.own_limits
    output.show(
        usage,
        for_people={
            "limits": "",
            "ownLimits": "",
            "maxTotalBytes": _limit_text(_size_text(limits.max_total_bytes), own.max_total_bytes),
            "maxFiles": _limit_text(str(limits.max_files), own.max_files),
            "maxFileBytes": _limit_text(_size_text(limits.max_file_bytes), own.max_file_bytes),
        },
    )


def _limit_text(text: str, own: int | None) -> str:
    """Give a limit in force; one that is not the organisation's `own` is the server's."""
    text = "no limit" if text == "0" else text
    return f"{text} (default)" if own is None else text


def _size_text(size: int | None) -> str:
    """Give a size as the options take it."""
    for power, unit in zip(range(4, 0, -1), _UNITS, strict=True):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)
