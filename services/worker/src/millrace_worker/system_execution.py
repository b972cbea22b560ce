import inspect
import time
from datetime import datetime
from typing import Any

import orjson
import structlog
from structlog.contextvars import bind_contextvars

from millrace_database.ids import format_id
from millrace_database.system_schedules_repository import system_type
from millrace_worker.execution import HANDLER_ERROR, Execution, describe_error
from millrace_worker.handler import Handler
from millrace_worker.outcome import Completed, Failed, HandedBack, Lapsed, Outcome
from millrace_worker.system_context import SystemContext

_log = structlog.get_logger(__name__)


class SystemExecution(Execution):
    """One claimed run of a system schedule. Its beginning and its end are told to the log, which is all that is kept."""

    __slots__ = ("_error",)

    _error: BaseException | None

    @property
    def run_id(self) -> str:
        """What names the run."""
        return format_id("system", self.job.claim.id)

    @property
    def log_fields(self) -> dict[str, Any]:
        """What names this execution in log lines."""
        claim = self.job.claim
        return {"run_id": self.run_id, "type": system_type(claim.type), "attempt": claim.attempt}

    async def run(self) -> Outcome | None:
        """Run the function to its end, as Execution does. It is never to be run again because it failed."""
        self._error = None
        _log.info("system run started", **self.log_fields)
        started_at = time.monotonic()
        outcome = await super().run()
        self._tell_end(outcome, seconds=round(time.monotonic() - started_at, 3))
        return outcome

    async def _result(self, handler: Handler, value: Any) -> object:
        del value
        context = SystemContext(
            run_id=self.run_id,
            type=system_type(self.job.claim.type),
            scheduled_time=datetime.fromisoformat(orjson.loads(self.job.metadata_json)["scheduled_time"]),
            attempt=self.job.claim.attempt,
            lease=self.lease,
            resources=self._surroundings.resources,
            stop=self._signal,
        )
        bind_contextvars(run_id=self.run_id)
        if handler.is_async:
            await handler.function(context)
        else:
            returned, error = await self._surroundings.threads.run(handler.function, context)
            if error is not None:
                raise error
            if inspect.isawaitable(returned):
                if inspect.iscoroutine(returned):
                    returned.close()
                raise TypeError("it returned work that nobody awaits: it is to be declared with async def")
        # What it returns is nobody's.
        return None

    def _failure(self, error: BaseException) -> Failed:
        if self.stop_reason is None:
            self._error = error
        return self._failed(HANDLER_ERROR, describe_error(error))

    def _tell_end(self, outcome: Outcome | None, *, seconds: float) -> None:
        match outcome:
            case Completed():
                _log.info("system run completed", seconds=seconds, **self.log_fields)
            case Failed():
                _log.error(
                    "system run failed",
                    seconds=seconds,
                    error=outcome.message,
                    exc_info=self._error,
                    **self.log_fields,
                )
            case HandedBack() | Lapsed():
                _log.warning("system run stopped; it is run again", seconds=seconds, **self.log_fields)
            case _:
                _log.warning("system run stopped", seconds=seconds, **self.log_fields)
