"""What goes wrong with a command, as a message and an exit code."""

from millrace_client.command.output import complain, complain_of_call
from millrace_client.errors import CallError, MillraceError, TransferError, UnavailableError

FAILURES = (CallError, ValueError, MillraceError, OSError)
"""What may go wrong without a fault of the command."""

# As grpcurl does, so that scripts can tell the statuses apart.
_STATUS_EXIT_CODE = 64
_UNAVAILABLE_EXIT_CODE = _STATUS_EXIT_CODE + 14
_FAILURE_EXIT_CODE = 1
_USAGE_EXIT_CODE = 2


def complain_of(error: Exception, about: str = "") -> int:
    """Print to standard error what went wrong, `about` which of several things, and return the exit code for it."""
    if isinstance(error, CallError):
        complain_of_call(error, about)
        return _STATUS_EXIT_CODE + int(error.code.value[0])
    if is_unreachable(error):
        complain(": ".join(filter(None, (about, "UNAVAILABLE", str(error)))))
        return _UNAVAILABLE_EXIT_CODE
    words = _in_words(error)
    complain(words if about in words else f"{about}: {words}")
    # What was typed has no form in which it can be sent.
    return _USAGE_EXIT_CODE if isinstance(error, ValueError) else _FAILURE_EXIT_CODE


def is_unreachable(error: Exception) -> bool:
    """Tell whether a service or the object store cannot be reached, which the next call would find out as well."""
    return isinstance(error, UnavailableError) or (isinstance(error, TransferError) and error.retryable)


def _in_words(error: Exception) -> str:
    match error:
        case OSError(strerror=str(problem)):
            place = error.filename2 or error.filename
            return f"{place}: {problem}" if place else problem
        case UnicodeEncodeError():
            return f"not UTF-8: {error.object.encode(errors='backslashreplace').decode()}"
    return str(error)
