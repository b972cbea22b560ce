"""How the queue is, for operators."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from millrace.jobs.v1 import jobs_service_pb2, queue_health_pb2
from millrace_client.values import length_or_none, time_or_none


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The jobs of a type and organisation that are not finished."""

    type: str
    org_id: str
    ready: int
    """They could start now if there were a free worker."""
    scheduled: int
    """They wait for their time."""
    held: int
    """They wait because of a limit, a key, or a pause."""
    running: int
    oldest_wait: timedelta | None
    """How long the oldest of those that are ready or held has been waiting; None when there is none."""
    created_per_second: float
    """Over the last minute."""
    finished_per_second: float
    """Over the last minute, however they ended."""


@dataclass(frozen=True, slots=True)
class TableHealth:
    """A table that is written often."""

    table: str
    live_rows: int
    dead_rows: int
    """Rows that were replaced or deleted and not yet removed: when they grow, look at the oldest transaction."""
    size_bytes: int
    last_vacuum_at: datetime | None


@dataclass(frozen=True, slots=True)
class OldestTransaction:
    """What keeps Postgres from removing dead rows for the longest time."""

    pid: int
    """Its server process; 0 for a replication slot or a prepared transaction."""
    owner: str
    """Application and user, or the name of the slot or of the prepared transaction."""
    state: str
    """Such as "active", "idle in transaction", "replication slot", "prepared transaction"."""
    started_at: datetime | None
    """None when Postgres does not know."""
    transactions_behind: int
    """How many transactions have begun since."""


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """How deep the queue is, how fast it moves, and what may slow it down."""

    depths: tuple[QueueDepth, ...]
    """By type and organisation, the deepest first, at most 1,000."""
    tables: tuple[TableHealth, ...]
    oldest_transaction: OldestTransaction | None
    """None when nothing holds anything back."""


def read_queue_health(message: jobs_service_pb2.GetQueueHealthResponse) -> QueueHealth:
    """Turn the contract's message into a QueueHealth."""
    oldest = message.oldest_transaction if message.HasField("oldest_transaction") else None
    return QueueHealth(
        depths=tuple(map(_read_depth, message.depths)),
        tables=tuple(map(_read_table, message.tables)),
        oldest_transaction=_read_transaction(oldest) if oldest is not None else None,
    )


def _read_depth(message: queue_health_pb2.QueueDepth) -> QueueDepth:
    return QueueDepth(
        type=message.type,
        org_id=message.org_id,
        ready=message.ready,
        scheduled=message.scheduled,
        held=message.held,
        running=message.running,
        oldest_wait=length_or_none(message, "oldest_wait"),
        created_per_second=message.created_per_second,
        finished_per_second=message.finished_per_second,
    )


def _read_table(message: queue_health_pb2.TableHealth) -> TableHealth:
    return TableHealth(
        table=message.table,
        live_rows=message.live_rows,
        dead_rows=message.dead_rows,
        size_bytes=message.size_bytes,
        last_vacuum_at=time_or_none(message, "last_vacuum_at"),
    )


def _read_transaction(message: queue_health_pb2.OldestTransaction) -> OldestTransaction:
    return OldestTransaction(
        pid=message.pid,
        owner=message.owner,
        state=message.state,
        started_at=time_or_none(message, "started_at"),
        transactions_behind=message.transactions_behind,
    )
