# ruff: noqa: N802 - the methods have the names of the contract
from millrace.jobs.v1 import jobs_service_pb2, queue_health_pb2
from millrace_database.queue_health import OldestTransaction, QueueDepth, TableHealth, queue_health
from millrace_jobs.job_type_catalog import MAX_TYPE_LENGTH
from millrace_jobs.servicer_parts import Context, ServicerMethods
from millrace_runtime.identity import Role, current_caller
from millrace_runtime.struct_json import datetime_to_timestamp, timedelta_to_duration
from millrace_runtime.validation import Violations


class QueueHealthMethods(ServicerMethods):
    """The method that shows how the queue is."""

    async def GetQueueHealth(
        self, request: jobs_service_pb2.GetQueueHealthRequest, _context: Context
    ) -> jobs_service_pb2.GetQueueHealthResponse:
        """Return the depth and the rates of the queue, and what may slow it down."""
        violations = Violations()
        type_ = violations.check_text("type", request.type, max_length=MAX_TYPE_LENGTH)
        org_id = violations.check_org_id(request.org_id) if request.org_id else ""
        violations.raise_if_any()
        current_caller().require_role(Role.OPERATOR)
        async with self._parts.database.connection() as connection:
            health = await queue_health(connection, type_, org_id)
        return jobs_service_pb2.GetQueueHealthResponse(
            depths=[_depth(depth) for depth in health.depths],
            tables=[_table(table) for table in health.tables],
            oldest_transaction=_transaction(health.oldest_transaction),
        )


def _depth(depth: QueueDepth) -> queue_health_pb2.QueueDepth:
    return queue_health_pb2.QueueDepth(
        type=depth.type,
        org_id=depth.org_id,
        ready=depth.ready,
        scheduled=depth.scheduled,
        held=depth.held,
        running=depth.running,
        oldest_wait=None if depth.oldest_wait is None else timedelta_to_duration(depth.oldest_wait),
        created_per_second=depth.created_per_second,
        finished_per_second=depth.finished_per_second,
    )


def _table(table: TableHealth) -> queue_health_pb2.TableHealth:
    vacuum = table.last_vacuum_at
    return queue_health_pb2.TableHealth(
        table=table.table,
        live_rows=table.live_rows,
        dead_rows=table.dead_rows,
        size_bytes=table.size_bytes,
        last_vacuum_at=None if vacuum is None else datetime_to_timestamp(vacuum),
    )


def _transaction(transaction: OldestTransaction | None) -> queue_health_pb2.OldestTransaction | None:
    if transaction is None:
        return None
    started_at = transaction.started_at
    return queue_health_pb2.OldestTransaction(
        pid=transaction.pid,
        owner=transaction.owner,
        state=transaction.state,
        started_at=None if started_at is None else datetime_to_timestamp(started_at),
        transactions_behind=transaction.transactions_behind,
    )
