"""Why a module of handlers could not be imported, in one line."""

import sysconfig
import traceback
from pathlib import Path

from millrace_worker.errors import InvalidHandlerError

_OURS = Path(__file__).parent
_LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def describe_import_failure(error: Exception) -> str:
    """Return what went wrong, and the file and line of the user's code where it did, if it is in any."""
    if isinstance(error, InvalidHandlerError):
        # It names the function and the line.
        return str(error)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    said = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    place = _place(error)
    return said if place is None else f"{place}: {said}"


def _place(error: Exception) -> str | None:
    """Return the innermost line that is neither a library's nor ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return None


def _is_users(filename: str) -> bool:
    # The import system's own frames are "<frozen importlib._bootstrap>".
    if filename.startswith("<"):
        return False
    path = Path(filename)
    return not any(path.is_relative_to(folder) for folder in (_OURS, *_LIBRARIES))
