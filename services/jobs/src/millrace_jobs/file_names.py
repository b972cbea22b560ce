"""What may be the name of a file."""

import unicodedata

from millrace_runtime.validation import Violations
from millrace_runtime.visible_text import is_blank

MAX_NAME_BYTES = 255

# Control characters, and what ends a line or a paragraph: a name is one line of text.
_BREAKING = frozenset({"Cc", "Zl", "Zp"})
# What turns the direction of the text behind it: "report\u202efdp.exe" is shown as "reportexe.pdf".
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_file_name(field: str, name: str, violations: Violations) -> None:
    """Check a required name: one line of text that is no path. It is for people, and never becomes a path here."""
    if not violations.require(field, name):
        return
    size = len(name.encode())
    if size > MAX_NAME_BYTES:
        violations.add(field, f"is {size} bytes long, more than {MAX_NAME_BYTES}")
    if name in (".", ".."):
        violations.add(field, "names a folder")
    if is_blank(name):
        violations.add(field, "is blank")
    if "/" in name or any(unicodedata.category(character) in _BREAKING for character in name):
        violations.add(field, 'holds "/", a control character or the end of a line')
    if not _TURNING.isdisjoint(name):
        violations.add(field, "holds a character that turns the direction of text")
