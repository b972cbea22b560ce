import re
from datetime import timedelta

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class JobError(Exception):
    """Raised by a handler to end the attempt with its own word instead of HANDLER_ERROR.

    `code` is a stable word for programs in UPPER_SNAKE_CASE, at most 64 characters; `message` a sentence for
    people, shown to clients. `retryable`: whether the same job could succeed if it were tried again; when
    False the job fails for good whatever attempts are left. `retry_after` puts the next attempt off by that
    long instead of by the type's backoff.

    Raises ValueError when `code` is not such a word or `retry_after` is negative.
    """

    def __init__(
        self, code: str, message: str, *, retryable: bool = False, retry_after: timedelta | None = None
    ) -> None:
        if not _CODE.fullmatch(code):
            raise ValueError(f"{code!r} is no error code: UPPER_SNAKE_CASE, at most 64 characters")
        if retry_after is not None and retry_after < timedelta(0):
            raise ValueError("retry_after is negative")
        super().__init__(code, message)
        self.code = code
        # Handlers also give an exception as the message, whatever the annotation says.
        self.message = str(message)
        self.retryable = retryable
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class JobSnoozed(Exception):  # noqa: N818 - it is no error
    """Raised by a handler to be called again after `delay`, because what it needs is not there yet.

    The attempt does not count, however often that happens. `message` is what people see meanwhile, in place of the
    last one the handler gave. Raises ValueError when `delay` is negative.
    """

    def __init__(self, delay: timedelta, message: str = "") -> None:
        if delay < timedelta(0):
            raise ValueError("delay is negative")
        super().__init__(delay, message)
        self.delay = delay
        self.message = str(message)

    def __str__(self) -> str:
        return f"again in {self.delay}: {self.message}" if self.message else f"again in {self.delay}"


class JobCancelled(BaseException):
    """Raised by the helpers of SyncJobContext once the job must stop: cancelled, timed out, lost, or shut down.

    Like asyncio.CancelledError it is no Exception, so that `except Exception` in a handler lets it through.
    A handler may catch it to clean up, and raises it again.
    """


class InvalidHandlerError(Exception):
    """A function cannot be registered as a handler; the text says which one and why."""


class DuplicateHandlerError(InvalidHandlerError):
    """Two functions were registered for one job type; the text names both places."""
