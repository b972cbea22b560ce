"""The form of job types' names."""

import re

_NAME = re.compile(r"[a-z][a-z0-9_-]*:[a-z][a-z0-9_-]*")
_MAX_LENGTH = 128

TYPE_NAME_FORM = (
    f'"namespace:name" in lower case letters, digits, "-" and "_", at most {_MAX_LENGTH} characters'
)


def is_type_name(candidate: object) -> bool:
    """Tell whether something is a text of the form of a job type's name."""
    return (
        isinstance(candidate, str)
        and len(candidate) <= _MAX_LENGTH
        and _NAME.fullmatch(candidate) is not None
    )
