"""Which schedules ListSchedules wants, and pages of them that fit into a message."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from millrace.scheduler.v1 import scheduler_service_pb2
from millrace_database import schedules_repository
from millrace_database.database import Database
from millrace_database.schedules_repository import ScheduleFilters
from millrace_runtime.identity import ALL_ORGANISATIONS
from millrace_runtime.paging import last_id, token_behind
from millrace_runtime.validation import Violations
from millrace_scheduler.schedule_messages import schedule_message
from millrace_scheduler.schedule_words import delivery_word, frequency_word

# gRPC clients accept messages of 4 MiB by default. A page ends before it grows larger, and holds one schedule at least.
_MAX_PAGE_BYTES = 3 * 1024 * 1024
# Rows are read in pieces: a page of schedules with large inputs is full long before its last row.
_PIECE = 100
_MAX_TYPE_LENGTH = 128
_MAX_SEARCH_LENGTH = 100


@dataclass(frozen=True, slots=True)
class ScheduleQuery:
    """What a request to list schedules asks for.

    Attributes:
        org_id: whose, "-" for all.
        filters: which schedules.
        page_size: how many at most.
        bound_to: what a page token is good for.

    """

    org_id: str
    filters: ScheduleFilters
    page_size: int
    bound_to: Mapping[str, Any]


def check_query(request: scheduler_service_pb2.ListSchedulesRequest, violations: Violations) -> ScheduleQuery:
    """Return what `request` asks for. All that is wrong is added to `violations`; the query is good for nothing then."""
    org_id = violations.check_org_id(request.org_id, allow_all=True)
    filters = ScheduleFilters(
        org_id=None if org_id == ALL_ORGANISATIONS else org_id,
        type=violations.check_text("type", request.type, max_length=_MAX_TYPE_LENGTH) or None,
        frequency=_check_word("frequency", request.frequency, frequency_word(request.frequency), violations),
        active=request.active if request.HasField("active") else None,
        delivery=_check_word("delivery", request.delivery, delivery_word(request.delivery), violations),
        search=violations.check_text("search", request.search, max_length=_MAX_SEARCH_LENGTH) or None,
    )
    page_size = violations.check_page_size(request.page_size)
    return ScheduleQuery(org_id, filters, page_size, _bound_to(filters))


async def read_page(
    database: Database, query: ScheduleQuery, page_token: str
) -> scheduler_service_pb2.ListSchedulesResponse:
    """Return the page that `page_token` stands for: fewer schedules than asked for when they are large.

    Raises InvalidArgument on `page_token`.
    """
    after = last_id(page_token, query.bound_to)
    response = scheduler_service_pb2.ListSchedulesResponse()
    size = 0
    while True:
        wanted = min(query.page_size - len(response.schedules), _PIECE)
        async with database.connection() as connection:
            records = await schedules_repository.list_schedules(connection, query.filters, after, wanted + 1)
        for record in records[:wanted]:
            schedule = schedule_message(record)
            size += schedule.ByteSize()
            if response.schedules and size > _MAX_PAGE_BYTES:
                response.next_page_token = token_behind(str(after), query.bound_to)
                return response
            response.schedules.append(schedule)
            after = record.schedule_id
        if len(records) <= wanted:
            return response
        if len(response.schedules) == query.page_size:
            response.next_page_token = token_behind(str(after), query.bound_to)
            return response


def _bound_to(filters: ScheduleFilters) -> Mapping[str, Any]:
    """Return the filters by which a token is bound: those that are asked for, so that older tokens stay good."""
    asked_for = {name: value for name, value in asdict(filters).items() if value is not None}
    return {**asked_for, "org_id": filters.org_id or ALL_ORGANISATIONS}


def _check_word(name: str, number: int, word: str | None, violations: Violations) -> str | None:
    if not number:
        return None
    if word is None:
        violations.add(name, f"is {number}, which is unknown")
    return word
