from uuid import UUID

import grpc

from millrace.worker.v1 import worker_pb2, worker_service_pb2, worker_service_pb2_grpc
from millrace_database import Database, workers_repository
from millrace_database.ids import format_id
from millrace_database.workers_repository import WorkerRecord
from millrace_queue import held_leases
from millrace_runtime.errors import FailedPrecondition, NotFound
from millrace_runtime.identity import current_caller
from millrace_runtime.paging import last_id, token_behind
from millrace_runtime.resource_keys import check_key
from millrace_runtime.struct_json import datetime_to_timestamp
from millrace_runtime.validation import Violations
from millrace_worker.execution import Execution
from millrace_worker.outcome import StopReason
from millrace_worker.runner import Runner

_STATES = {
    "active": worker_pb2.WORKER_STATE_ACTIVE,
    "draining": worker_pb2.WORKER_STATE_DRAINING,
    "lost": worker_pb2.WORKER_STATE_LOST,
}


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """WorkerService: the contract says what each method does."""

    def __init__(self, database: Database, runner: Runner) -> None:
        self._database = database
        self._runner = runner

    async def ListWorkers(  # noqa: N802 - the contract's name
        self,
        request: worker_service_pb2.ListWorkersRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - gRPC gives it
    ) -> worker_service_pb2.ListWorkersResponse:
        """List all workers."""
        violations = Violations()
        size = violations.check_page_size(request.page_size)
        violations.raise_if_any()
        # Whoever may call may see them.
        current_caller()
        after = last_id(request.page_token, {})
        async with self._database.connection() as connection:
            # One more than asked for tells whether there is another page.
            workers = await workers_repository.list_workers(connection, after, size + 1)
        response = worker_service_pb2.ListWorkersResponse(
            workers=[_message(worker) for worker in workers[:size]]
        )
        if len(workers) > size:
            response.next_page_token = token_behind(workers[size - 1].worker_id, {})
        return response

    async def CancelExecution(  # noqa: N802 - the contract's name
        self,
        request: worker_service_pb2.CancelExecutionRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - gRPC gives it
    ) -> worker_service_pb2.CancelExecutionResponse:
        """Stop a handler now whose job is to be cancelled."""
        org_id, job_id = check_key("job", request.org_id, request.job_id)
        execution = self._find(org_id, job_id)
        if execution is None:
            raise NotFound("running job", request.job_id)
        async with self._database.connection() as connection:
            held = await held_leases(connection, execution.worker_id)
        lease = next((lease for lease in held if lease.fence == execution.lease.fence), None)
        if lease is None:
            raise NotFound("running job", request.job_id)
        if not lease.cancel_requested:
            raise FailedPrecondition(
                "CANCELLATION_NOT_REQUESTED",
                request.job_id,
                "nobody asked for the job's cancellation: call JobsService.CancelJob",
            )
        self._runner.stop(execution, StopReason.CANCELLED)
        return worker_service_pb2.CancelExecutionResponse()

    def _find(self, org_id: str, job_id: UUID) -> Execution | None:
        for execution in self._runner.held.values():
            if execution.lease.id == job_id and execution.job.org_id == org_id:
                return execution
        return None


def _message(worker: WorkerRecord) -> worker_pb2.Worker:
    return worker_pb2.Worker(
        worker_id=format_id("worker", worker.worker_id),
        name=worker.name,
        address=worker.address,
        state=_STATES[worker.state],
        started_at=datetime_to_timestamp(worker.started_at),
        heartbeat_at=datetime_to_timestamp(worker.heartbeat_at),
        job_types=worker.types,
        slots=worker.slots,
        running_jobs=worker.running_jobs,
    )
