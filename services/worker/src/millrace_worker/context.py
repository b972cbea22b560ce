import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from millrace_database.job_options import RetentionRule
from millrace_queue import Lease
from millrace_worker.delivery_settings import DeliverySettings
from millrace_worker.errors import JobCancelled

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from millrace_database import Database
    from millrace_database.job_flow import JobCounts
    from millrace_storage import FileStore

Input = TypeVar("Input")

MAX_MESSAGE_CHARACTERS = 1_000
MAX_ITEMS = 2**63 - 1


def _tell_nobody(_counts: "JobCounts") -> None:
    pass


@dataclass(frozen=True, slots=True)
class Resources:
    """What a handler may use besides its input; opened once for the whole worker."""

    database: "Database"
    files: "FileStore"
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    retention: RetentionRule = field(default_factory=RetentionRule)
    """How long finished jobs are kept whose type says nothing; what is None is kept for ever."""
    storage_cleanup_dry_run: bool = False
    jobs_created: Callable[["JobCounts"], None] = _tell_nobody
    """To be called with how many jobs were created, once that is committed, so that they do not wait to be found."""


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """What a handler said of its progress; None leaves the value said before."""

    percent: int | None = None
    message: str | None = None
    processed_items: int | None = None
    total_items: int | None = None

    def merged_into(self, earlier: "ProgressUpdate | None") -> "ProgressUpdate":
        """Return this update on top of an `earlier` one that has not been written yet."""
        if earlier is None:
            return self
        return ProgressUpdate(
            percent=earlier.percent if self.percent is None else self.percent,
            message=earlier.message if self.message is None else self.message,
            processed_items=earlier.processed_items if self.processed_items is None else self.processed_items,
            total_items=earlier.total_items if self.total_items is None else self.total_items,
        )


def _progress(percent: int, message: str | None) -> ProgressUpdate:
    if not 0 <= percent <= 100:
        raise ValueError(f"progress is a percentage from 0 to 100, not {percent}")
    return ProgressUpdate(
        percent=int(percent), message=None if message is None else str(message)[:MAX_MESSAGE_CHARACTERS]
    )


def _items(processed: int, total: int | None) -> ProgressUpdate:
    if not (0 <= processed <= MAX_ITEMS and 0 <= (total or 0) <= MAX_ITEMS):
        raise ValueError(f"a number of items is from 0 to {MAX_ITEMS}")
    return ProgressUpdate(processed_items=int(processed), total_items=None if total is None else int(total))


class _Context(Generic[Input]):
    """What both kinds of context know of the job."""

    __slots__ = (
        "_log",
        "_report",
        "attempt",
        "created_by",
        "input",
        "job_id",
        "lease",
        "metadata",
        "org_id",
        "resources",
        "type",
    )

    def __init__(
        self,
        *,
        job_id: str,
        org_id: str,
        type: str,  # noqa: A002 - the field's name everywhere
        input: Input,  # noqa: A002 - the field's name everywhere
        metadata: Mapping[str, Any],
        attempt: int,
        created_by: str,
        lease: Lease,
        resources: Resources,
        report: Callable[[ProgressUpdate], None],
    ) -> None:
        self.job_id = job_id
        self.org_id = org_id
        self.type = type
        self.input = input
        self.metadata = metadata
        self.attempt = attempt
        self.created_by = created_by
        self.lease = lease
        self.resources = resources
        self._report = report
        self._log: FilteringBoundLogger | None = None

    @property
    def log(self) -> "FilteringBoundLogger":
        """A logger whose lines carry job_id, org_id, type and attempt."""
        if self._log is None:
            self._log = structlog.get_logger("millrace_worker.handler").bind(
                job_id=self.job_id, org_id=self.org_id, type=self.type, attempt=self.attempt
            )
        return self._log


class JobContext(_Context[Input]):
    """What an `async def` handler gets: the job, its validated `input`, and helpers.

    `job_id` ("job_…"), `org_id`, `type`, `metadata` (the caller's labels), `attempt` (from 1) and `created_by`
    are the job's; `resources` are the worker's. When the job must stop, asyncio.CancelledError is raised at the
    handler's next `await`.

    `lease` proves that this attempt is the current one. A handler that writes to Millrace's database confirms it in
    the transaction of its write (`millrace_queue.confirm`): a worker that lost the job and does not know it yet then
    writes nothing.
    """

    __slots__ = ()

    async def update_progress(self, percent: int, message: str | None = None) -> None:
        """Say how far the job is: `percent` from 0 to 100, and what it does now (None: as before).

        Cheap: the latest value of each job is written a few times a second, and before the job's end. Gives
        other handlers a turn. Raises ValueError for a percentage out of range.
        """
        self._report(_progress(percent, message))
        await asyncio.sleep(0)

    async def update_processed_items(self, processed: int, total: int | None = None) -> None:
        """Say how many items are done, and how many there are (None: as before). Cheap, as update_progress.

        Raises ValueError for a number out of range.
        """
        self._report(_items(processed, total))
        await asyncio.sleep(0)


class StopSignal:
    """Tells a handler in a thread to stop, and whether it has noticed."""

    __slots__ = ("is_set", "noticed")

    def __init__(self) -> None:
        self.is_set = False
        self.noticed = False

    def raise_if_set(self) -> None:
        """Raise JobCancelled when the handler must stop."""
        if self.is_set:
            self.noticed = True
            raise JobCancelled


class SyncJobContext(_Context[Input]):
    """What a plain `def` handler gets: as JobContext, without `await`; the handler runs in a thread.

    A thread cannot be ended from outside. Once the job must stop, every helper raises JobCancelled; a handler
    that calls none of them runs to its end, keeps its slot until then, and its result is dropped.
    """

    __slots__ = ("_stop",)

    def __init__(self, *, stop: StopSignal, **job: Any) -> None:
        super().__init__(**job)
        self._stop = stop

    def raise_if_cancelled(self) -> None:
        """Raise JobCancelled when the job must stop. For loops that report nothing."""
        self._stop.raise_if_set()

    def update_progress(self, percent: int, message: str | None = None) -> None:
        """As JobContext.update_progress; raises JobCancelled once the job must stop."""
        self.raise_if_cancelled()
        self._report(_progress(percent, message))

    def update_processed_items(self, processed: int, total: int | None = None) -> None:
        """As JobContext.update_processed_items; raises JobCancelled once the job must stop."""
        self.raise_if_cancelled()
        self._report(_items(processed, total))
