"""Handlers that end their worker process, as a crash in native code or the kernel would."""

import os
from typing import Any

from millrace_worker import JobContext, job_handler


@job_handler("fatal:exit", attempts=20)
async def leave(context: JobContext[dict[str, Any]]) -> None:
    """End the process at once."""
    os._exit(70)
