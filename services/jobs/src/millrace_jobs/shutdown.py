from millrace_runtime.errors import Unavailable


def shutting_down() -> Unavailable:
    """Return the error of a call that this copy of the service will not answer any more; another copy may."""
    return Unavailable("the service is shutting down", reason="SHUTTING_DOWN")
