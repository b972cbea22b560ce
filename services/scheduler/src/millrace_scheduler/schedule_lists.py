"""Pages of schedules that fit into a message."""

from millrace.scheduler.v1 import scheduler_service_pb2
from millrace_database import schedules_repository
from millrace_database.database import Database
from millrace_runtime.identity import ALL_ORGANISATIONS
from millrace_runtime.paging import last_id, token_behind
from millrace_scheduler.schedule_messages import schedule_message

# gRPC clients accept messages of 4 MiB by default. A page ends before it grows larger, and holds one schedule at least.
_MAX_PAGE_BYTES = 3 * 1024 * 1024
# Rows are read in pieces: a page of schedules with large inputs is full long before its last row.
_PIECE = 100


async def read_page(
    database: Database, org_id: str, page_size: int, page_token: str
) -> scheduler_service_pb2.ListSchedulesResponse:
    """Return the page that `page_token` stands for: fewer schedules than asked for when they are large.

    Raises InvalidArgument on `page_token`.
    """
    bound_to = {"org_id": org_id}
    after = last_id(page_token, bound_to)
    response = scheduler_service_pb2.ListSchedulesResponse()
    size = 0
    while True:
        wanted = min(page_size - len(response.schedules), _PIECE)
        async with database.connection() as connection:
            records = await schedules_repository.list_schedules(
                connection, None if org_id == ALL_ORGANISATIONS else org_id, after, wanted + 1
            )
        for record in records[:wanted]:
            schedule = schedule_message(record)
            size += schedule.ByteSize()
            if response.schedules and size > _MAX_PAGE_BYTES:
                response.next_page_token = token_behind(str(after), bound_to)
                return response
            response.schedules.append(schedule)
            after = record.schedule_id
        if len(records) <= wanted:
            return response
        if len(response.schedules) == page_size:
            response.next_page_token = token_behind(str(after), bound_to)
            return response
