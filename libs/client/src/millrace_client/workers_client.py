"""The workers of an installation."""

from collections.abc import AsyncIterator, Iterator

from millrace.worker.v1 import worker_service_pb2 as messages
from millrace_client.connection import Connection, read_pages
from millrace_client.worker import Worker, read_worker


class WorkersClient:
    """Calls to the Worker service; workers serve all organisations."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, *, page_size: int = 100, timeout: float | None = None) -> AsyncIterator[Worker]:
        """Yield all workers in the order in which they started; pages are fetched as needed.

        Raises a CallError of the status that the server answered with.
        """

        async def fetch(page_token: str) -> tuple[Iterator[Worker], str]:
            request = messages.ListWorkersRequest(page_size=page_size, page_token=page_token)
            page = await self._connection.call(self._connection.worker.ListWorkers, request, timeout)
            return map(read_worker, page.workers), page.next_page_token

        return read_pages(fetch, limit=None)
