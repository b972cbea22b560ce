"""The workers there are, for people and for other services."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from millrace_database.system_schedules_repository import SYSTEM_TENANT

WorkerState = Literal["active", "draining", "lost"]
"""It takes jobs; it takes no more; its heartbeat is overdue."""

_LIST = """
SELECT worker_id, coalesce(details ->> 'name', '') AS name, coalesce(details ->> 'address', '') AS address,
    CASE WHEN heartbeat_at < now() - lease THEN 'lost' WHEN draining THEN 'draining' ELSE 'active' END AS state,
    started_at, heartbeat_at,
    ARRAY(SELECT jsonb_array_elements_text(details -> 'types') ORDER BY 1) AS types,
    coalesce((details ->> 'slots')::integer, 0) AS slots,
    (
        SELECT count(*) FROM queue
        WHERE queue.worker_id = queue_workers.worker_id AND state = 'running' AND tenant <> $3::text
    ) AS running_jobs
FROM queue_workers
WHERE worker_id > coalesce($1::uuid, '00000000-0000-0000-0000-000000000000')
ORDER BY worker_id
LIMIT $2::integer
"""


@dataclass(frozen=True, slots=True)
class WorkerDetails:
    """What a worker says of itself when it registers.

    Attributes:
        name: the host and process, for people.
        address: where it serves WorkerService, as "host:port".
        types: the job types it runs.
        slots: how many jobs it runs at once, over all types.
        system_types: the types of the system schedules that it declares.

    """

    name: str
    address: str
    types: Sequence[str]
    slots: int
    system_types: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the `details` to register the worker with in the queue."""
        return {
            "name": self.name,
            "address": self.address,
            "types": sorted(self.types),
            "slots": self.slots,
            "system_types": sorted(self.system_types),
        }


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process; times are the database's. `running_jobs` is how many jobs it holds now."""

    worker_id: UUID
    name: str
    address: str
    state: WorkerState
    started_at: datetime
    heartbeat_at: datetime
    types: Sequence[str]
    slots: int
    running_jobs: int


async def list_workers(conn: asyncpg.Connection, after: UUID | None, limit: int) -> list[WorkerRecord]:
    """Return workers by their ids, the order in which they started.

    `after` is the last id of the page before; None: from the first.
    """
    return [WorkerRecord(**row) for row in await conn.fetch(_LIST, after, limit, SYSTEM_TENANT)]
