"""A worker process."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from millrace.worker.v1 import worker_pb2
from millrace_client.contract_enum import ContractEnum
from millrace_client.values import from_timestamp


class WorkerState(StrEnum):
    """Whether a worker takes jobs."""

    ACTIVE = "ACTIVE"
    """It claims and runs jobs."""
    DRAINING = "DRAINING"
    """It claims nothing more, and finishes or hands back what it has."""
    LOST = "LOST"
    """Its heartbeat is overdue; its jobs are about to run elsewhere."""
    UNKNOWN = "UNKNOWN"
    """A state that this version of the SDK does not know."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process, as it last reported."""

    worker_id: str
    name: str
    """The host and process, for people."""
    address: str
    """Where it serves WorkerService, as "host:port"."""
    state: WorkerState
    started_at: datetime
    heartbeat_at: datetime
    job_types: tuple[str, ...]
    """The job types it runs."""
    slots: int
    """How many jobs it runs at once, over all types."""
    running_jobs: int
    """How many jobs it holds now."""


_STATES = ContractEnum(WorkerState, worker_pb2.WorkerState.items(), "WORKER_STATE_")


def read_worker(message: worker_pb2.Worker) -> Worker:
    """Turn the contract's message into a Worker."""
    return Worker(
        worker_id=message.worker_id,
        name=message.name,
        address=message.address,
        state=_STATES.read(message.state),
        started_at=from_timestamp(message.started_at),
        heartbeat_at=from_timestamp(message.heartbeat_at),
        job_types=tuple(message.job_types),
        slots=message.slots,
        running_jobs=message.running_jobs,
    )
