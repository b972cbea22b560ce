import re
from typing import Annotated

from pydantic import Field

from millrace_runtime.visible_text import is_blank

NOT_IN_NAMES = r"/\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
"""What no name holds, nor one that callers upload, as in a regular expression: "/", control characters, ends of lines, and what turns the direction of text."""

FileName = Annotated[str, Field(min_length=1, max_length=200, pattern=f"^[^{NOT_IN_NAMES}]+$")]
"""A name for a file that a job makes."""

_MAX_BYTES = 255
_FORBIDDEN = re.compile(f"[{NOT_IN_NAMES}]")


def file_name(text: str, ending: str) -> str:
    """Make the name of a file of any text, with an ending such as ".csv"; at most 255 bytes."""
    name = without_forbidden(text.strip())
    if name.lower().endswith(ending):
        name = name[: -len(ending)]
    name = name.encode()[: _MAX_BYTES - len(ending)].decode(errors="ignore")
    return f"{'file' if is_blank(name) else name}{ending}"


def without_forbidden(text: str) -> str:
    """Return a text with "_" for whatever no name may hold."""
    return _FORBIDDEN.sub("_", text)
