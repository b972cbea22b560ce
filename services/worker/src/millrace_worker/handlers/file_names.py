import re
from typing import Annotated

from pydantic import Field

FileName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/\x00-\x1f\x7f]+$")]
"""A name for a file that a job makes: no "/" and no control characters."""

_MAX_BYTES = 255
_FORBIDDEN = re.compile(r"[/\x00-\x1f\x7f]")


def file_name(text: str, ending: str) -> str:
    """Make the name of a file of any text, with an ending such as ".csv"; at most 255 bytes."""
    name = _FORBIDDEN.sub("_", text.strip())
    if name.lower().endswith(ending):
        name = name[: -len(ending)]
    name = name.encode()[: _MAX_BYTES - len(ending)].decode(errors="ignore")
    return f"{name or 'file'}{ending}"
