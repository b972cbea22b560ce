"""Telling a worker at once that the cancellation of a job it runs has been asked for."""

import asyncio
from collections import OrderedDict
from typing import NamedTuple

import grpc
import structlog

from millrace.worker.v1 import worker_service_pb2, worker_service_pb2_grpc
from millrace_runtime.addresses import DIRECTLY

_DEADLINE_SECONDS = 2.0
# A worker that hangs holds up one sender until the deadline, and not those after it.
_SENDERS = 4
_MAX_WAITING = 1000
_MAX_CHANNELS = 64

_log = structlog.get_logger(__name__)


class _Push(NamedTuple):
    address: str
    org_id: str
    job_id: str


class ExecutionCanceller:
    """Pushes CancelExecution to workers, without anybody waiting for it.

    A push that fails is forgotten: the worker learns of the cancellation with its next heartbeat. Channels are
    kept, the most recently used ones, until `close`.
    """

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[_Push] = asyncio.Queue(_MAX_WAITING)
        self._channels: OrderedDict[str, grpc.aio.Channel] = OrderedDict()

    def push(self, address: str, *, org_id: str, job_id: str) -> None:
        """Have the worker at `address` ("host:port") told soon. Call it once the cancellation is committed."""
        try:
            self._waiting.put_nowait(_Push(address, org_id, job_id))
        except asyncio.QueueFull:
            _log.debug("push of a cancellation dropped", worker_address=address, job_id=job_id)

    async def run(self) -> None:
        """Push what there is to push, until cancelled."""
        async with asyncio.TaskGroup() as senders:
            for _ in range(_SENDERS):
                senders.create_task(self._send_all())

    async def close(self) -> None:
        """Close the channels; pushes under way are given up."""
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    async def _send_all(self) -> None:
        while True:
            await self._send(await self._waiting.get())

    async def _send(self, push: _Push) -> None:
        stub = worker_service_pb2_grpc.WorkerServiceStub(await self._channel(push.address))
        request = worker_service_pb2.CancelExecutionRequest(org_id=push.org_id, job_id=push.job_id)
        try:
            await stub.CancelExecution(request, timeout=_DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            _log.debug(
                "push of a cancellation failed",
                worker_address=push.address,
                job_id=push.job_id,
                code=error.code().name,
            )

    async def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.pop(address, None) or grpc.aio.insecure_channel(address, options=DIRECTLY)
        self._channels[address] = channel
        if len(self._channels) > _MAX_CHANNELS:
            _, oldest = self._channels.popitem(last=False)
            # Whoever still uses it is done by then.
            await oldest.close(grace=_DEADLINE_SECONDS)
        return channel
