"""Whether anything of a text can be seen."""

import re
import unicodedata

# What Unicode has shown as nothing although it is of another category than format characters (Default_Ignorable_Code_Point),
# and the Braille pattern without dots.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


def is_blank(text: str) -> bool:
    """Tell whether a text is nothing but white space and characters that are not shown, such as U+200B and U+FEFF."""
    return not any(map(_is_seen, text))


def _is_seen(character: str) -> bool:
    return not (character.isspace() or unicodedata.category(character) == "Cf" or _INVISIBLE.match(character))
