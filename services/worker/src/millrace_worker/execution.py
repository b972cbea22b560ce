import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import orjson
import structlog
from pydantic import ValidationError
from structlog.contextvars import bind_contextvars

from millrace_database.ids import format_id
from millrace_database.job_changes import ClaimedJob
from millrace_database.job_options import JobOptions
from millrace_storage import ContentMissing
from millrace_worker.backoff import LONGEST_WAIT
from millrace_worker.context import (
    MAX_MESSAGE_CHARACTERS,
    JobContext,
    ProgressUpdate,
    Resources,
    StopSignal,
    SyncJobContext,
)
from millrace_worker.errors import JobError, JobSnoozed
from millrace_worker.handler import Handler
from millrace_worker.lanes import Lane
from millrace_worker.outcome import (
    Cancelled,
    Completed,
    Failed,
    HandedBack,
    Lapsed,
    Outcome,
    Snoozed,
    StopReason,
)
from millrace_worker.output import InvalidOutputError, encode_output
from millrace_worker.store_failures import StoreFailure, lost_content, store_failure, store_words
from millrace_worker.store_outage import OUTAGE_WAITS
from millrace_worker.threads import ThreadPool

TIMEOUT = "TIMEOUT"
HANDLER_ERROR = "HANDLER_ERROR"
INVALID_INPUT = "INVALID_INPUT"
INVALID_OUTPUT = "INVALID_OUTPUT"

MAX_ERROR_CHARACTERS = 2_000

REMIND_SECONDS = 5.0
"""A handler that is to stop and goes on is cancelled again so often: it may have swallowed the cancellation,
or be tidying up."""

ABANDON_SECONDS = 30.0
"""So long after its timeout an attempt ends even though its handler still runs."""

_MAX_PROBLEMS = 10

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What executions use of the worker."""

    resources: Resources
    threads: ThreadPool
    report: Callable[["Execution", ProgressUpdate], None]
    abandon: Callable[["Execution"], None]


class Execution:
    """One claimed job, from its claim until its end is settled."""

    __slots__ = (
        "_is_stopping",
        "_options",
        "_signal",
        "_surroundings",
        "_task",
        "_timers",
        "claimed_at",
        "is_decided",
        "is_started",
        "job",
        "lane",
        "lease",
        "stop_reason",
        "worker_id",
    )

    def __init__(self, job: ClaimedJob, lane: Lane, worker_id: UUID, surroundings: Surroundings) -> None:
        self.job = job
        self.lane = lane
        self.lease = job.lease
        self.worker_id = worker_id
        self.claimed_at = time.monotonic()
        self.stop_reason: StopReason | None = None
        self.is_started = False
        # Whether it is clear what becomes of the attempt.
        self.is_decided = False
        self._surroundings = surroundings
        self._options = self._read_options()
        self._task: asyncio.Task[Any] | None = None
        self._signal = StopSignal()
        self._is_stopping = False
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def delivers(self) -> bool:
        """Whether a job that delivers its result is created together with its end."""
        return self._options.delivers

    @property
    def log_fields(self) -> dict[str, Any]:
        """What names this execution in log lines."""
        claim = self.job.claim
        return {
            "job_id": format_id("job", claim.id),
            "org_id": self.job.org_id,
            "type": claim.type,
            "attempt": claim.attempt,
        }

    @property
    def timeout(self) -> timedelta:
        """How long the attempt may run."""
        return self._options.timeout or self.lane.handler.timeout

    async def run(self) -> Outcome | None:
        """Run the handler to its end and say what becomes of the attempt; None when it is not ours any more.

        Whatever the handler raises becomes an outcome; only a cancellation that did not come from `stop` is raised.
        """
        if self.stop_reason is not None:
            return self.stopped_outcome()
        handler = self.lane.handler
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timers.append(loop.call_later(self.timeout.total_seconds(), self._time_out))
        try:
            outcome = await self._attempt(handler)
        finally:
            self._task = None
            self._signal.is_set = True
            for timer in self._timers:
                timer.cancel()
        return self.stopped_outcome() if self._was_stopped() else outcome

    def stop(self, reason: StopReason) -> None:
        """Have the handler stopped, for the first reason that is given; a lost lease outdoes all others."""
        if self.stop_reason is None or reason is StopReason.LEASE_LOST:
            self.stop_reason = reason
        if self._task is not None and not self._is_stopping:
            self._is_stopping = True
            self._tell()

    def stopped_outcome(self) -> Outcome | None:
        """Return what becomes of an attempt that was stopped; None: nothing, it is not ours any more."""
        match self.stop_reason:
            case StopReason.CANCELLED:
                return Cancelled()
            case StopReason.TIMEOUT:
                message = f"The attempt took longer than {self.timeout.total_seconds():g} s."
                return replace(self._failed(TIMEOUT, message), timed_out=True)
            case StopReason.GIVEN_UP:
                return HandedBack()
            case StopReason.STOOD_STILL:
                return Lapsed() if self.is_started else HandedBack()
            case _:
                return None

    def _read_options(self) -> JobOptions:
        try:
            return JobOptions.from_json(self.job.options_json)
        except (TypeError, ValueError, KeyError) as error:
            # A newer release knows more of them. The job runs by the rules of its type.
            _log.error("the options of a job cannot be read", error=repr(error), **self.log_fields)
            return JobOptions()

    def _was_stopped(self) -> bool:
        if self.stop_reason in (StopReason.GIVEN_UP, StopReason.STOOD_STILL):
            # What a handler has brought to its end without noticing is not done again.
            return self._is_stopping if self.lane.handler.is_async else self._signal.noticed
        return self.stop_reason is not None

    def _tell(self) -> None:
        if self._task is None:
            return
        self._signal.is_set = True
        if self.lane.handler.is_async:
            self._task.cancel()
            self._timers.append(asyncio.get_running_loop().call_later(REMIND_SECONDS, self._tell))

    def _time_out(self) -> None:
        self.stop(StopReason.TIMEOUT)
        self._timers.append(asyncio.get_running_loop().call_later(ABANDON_SECONDS, self._abandon))

    def _abandon(self) -> None:
        _log.error("a handler does not stop and is abandoned; it keeps its slot", **self.log_fields)
        self._surroundings.abandon(self)

    async def _attempt(self, handler: Handler) -> Outcome:
        try:
            value = handler.input_adapter.validate_json(self.job.input_json)
        except ValidationError as error:
            return Failed(INVALID_INPUT, _problems(error), retry_delay=None)
        except Exception as error:  # noqa: BLE001 - a validator is the handler's own code
            return self._failure(error)
        try:
            return Completed(encode_output(await self._result(handler, value)))
        except InvalidOutputError as error:
            _log.warning("handler returned what cannot be stored", error=str(error), **self.log_fields)
            return Failed(INVALID_OUTPUT, _shortened(str(error)), retry_delay=None)
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if self.stop_reason is None and _is_cancelled_from_outside(error):
                raise
            return self._failure(error)

    async def _result(self, handler: Handler, value: Any) -> object:
        job = self.job
        fields = {
            "job_id": format_id("job", job.claim.id),
            "org_id": job.org_id,
            "type": job.claim.type,
            "input": value,
            "metadata": orjson.loads(job.metadata_json),
            "attempt": job.claim.attempt,
            "created_by": job.created_by,
            "lease": self.lease,
            "resources": self._surroundings.resources,
            "report": partial(self._surroundings.report, self),
        }
        bind_contextvars(job_id=fields["job_id"], org_id=job.org_id)
        if handler.is_async:
            return await handler.function(JobContext(**fields))
        result, error = await self._surroundings.threads.run(
            handler.function, SyncJobContext(stop=self._signal, **fields)
        )
        if error is not None:
            raise error
        return result

    def _failure(self, error: BaseException) -> Failed | Snoozed:
        lost = lost_content(error)
        # One that was removed in the meantime is missed by nobody.
        if lost is not None and not lost.is_removed:
            self._log_lost_content(lost)
        if isinstance(error, JobError | JobSnoozed):
            try:
                return self._own_word(error)
            except Exception as fault:  # noqa: BLE001 - a subclass of the handler's own may be anything
                _log.warning("a handler's own word is unusable", exc_info=fault, **self.log_fields)
        of_store = store_failure(error)
        if of_store is not None and of_store.is_outage:
            return replace(self._of_store(of_store), away=store_words(error))
        if self.stop_reason is None and lost is None:
            _log.warning("handler failed", exc_info=error, **self.log_fields)
        if of_store is not None:
            return self._of_store(of_store)
        return self._failed(HANDLER_ERROR, describe_error(error))

    def _log_lost_content(self, lost: ContentMissing) -> None:
        _log.error(
            "the content of a file is lost",
            file_id=format_id("file", lost.file.file_id),
            object_key=lost.file.object_key,
            expected_bytes=lost.file.size_bytes,
            found_bytes=lost.found_bytes,
            **self.log_fields,
        )

    def _of_store(self, failure: StoreFailure) -> Failed:
        if not failure.retryable:
            return Failed(failure.code, failure.message, retry_delay=None)
        failed = self._failed(failure.code, failure.message)
        if not failure.is_outage or self._options.retry is not None:
            return failed
        claim = self.job.claim
        # How often the job is run is the word of whoever has named a number, or has said that it is run once. Earlier
        # releases, and callers of the library, may name one without saying so: a single attempt is taken for that.
        is_spared = (
            not self._options.names_attempts and claim.max_attempts > 1 and self.lane.handler.attempts > 1
        )
        delay = max(failed.retry_delay or timedelta(), OUTAGE_WAITS.delay(claim.attempt))
        return replace(failed, retry_delay=delay, is_spared=is_spared)

    def _own_word(self, error: JobError | JobSnoozed) -> Failed | Snoozed:
        if isinstance(error, JobSnoozed):
            message = str(error.message)[:MAX_MESSAGE_CHARACTERS]
            return Snoozed(max(min(error.delay, LONGEST_WAIT), timedelta()), message)
        if not error.retryable:
            return Failed(str(error.code), _shortened(str(error.message)), retry_delay=None)
        return self._failed(str(error.code), str(error.message), error.retry_after)

    def _failed(self, code: str, message: str, delay: timedelta | None = None) -> Failed:
        """Return a failure that may be tried again, after the job's backoff unless another delay is given."""
        if delay is None:
            backoff = self.lane.handler.backoff
            if self._options.retry is not None:
                backoff = backoff.overridden_by(self._options.retry)
            delay = backoff.delay(self.job.claim.attempt)
        return Failed(code, _shortened(message), min(delay, LONGEST_WAIT))


def _is_cancelled_from_outside(error: BaseException) -> bool:
    """Tell a cancellation of this task from one that the handler met in a task of its own."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _problems(error: ValidationError) -> str:
    """Name the fields that do not fit, without their values."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'input'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    shown = problems[:_MAX_PROBLEMS]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    return _shortened("; ".join(shown))


def describe_error(error: BaseException) -> str:
    """Return the class of an exception and what it says."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception of the handler's own may be faulty itself
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[: MAX_ERROR_CHARACTERS - 1] + "…"
