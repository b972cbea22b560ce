"""The header that makes browsers save an answer under a name."""

import re
import unicodedata
from urllib.parse import quote

# RFC 5987's attr-char without letters and digits; quote() keeps "_.-~" by itself.
_ATTRIBUTE_CHARACTERS = "!#$&+^`|"
_NOT_PRINTABLE_ASCII = re.compile(r"[^\x20-\x7e]")
# Quotes and backslashes would need escapes, and "%" looks like one; browsers disagree on all three.
_NOT_IN_QUOTES = re.compile(r'["\\%]')


def attachment(file_name: str) -> str:
    """Return a Content-Disposition value, of printable ASCII only, that offers a download under this name.

    As RFC 6266 says: the name in ASCII for old clients, with "_" for what it cannot hold, and, when that is not the
    whole truth, the name itself as RFC 5987 encodes it. Control characters become "_".
    """
    name = "".join("_" if unicodedata.category(character) == "Cc" else character for character in file_name)
    plain = _NOT_IN_QUOTES.sub("_", _NOT_PRINTABLE_ASCII.sub("_", unicodedata.normalize("NFC", name)))
    value = f'attachment; filename="{plain}"'
    if plain == name:
        return value
    return f"{value}; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE_CHARACTERS)}"
