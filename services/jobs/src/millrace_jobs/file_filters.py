"""Which files ListFiles wants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from millrace.files.v1 import files_service_pb2
from millrace_database.ids import format_id
from millrace_jobs.file_messages import STATE_WORDS
from millrace_jobs.file_names import MAX_NAME_BYTES
from millrace_jobs.file_uploads import MAX_CREATOR_LENGTH, check_content_type
from millrace_runtime.validation import Violations
from millrace_storage import FileFilters
from millrace_storage.content_types import normalised_type

_MAX_CONTENT_TYPES = 100


@dataclass(frozen=True, slots=True)
class FileQuery:
    """What a request to list files asks for.

    Attributes:
        org_id: whose files.
        filters: which of them.
        page_size: how many at most.
        bound_to: what a page token is good for.

    """

    org_id: str
    filters: FileFilters
    page_size: int
    bound_to: Mapping[str, Any]


def check_query(request: files_service_pb2.ListFilesRequest, violations: Violations) -> FileQuery:
    """Return what `request` asks for. All that is wrong is added to `violations`; the query is good for nothing then."""
    org_id = violations.check_org_id(request.org_id)
    filters = FileFilters(
        states=_check_states(request, violations),
        name_prefix=_check_name_prefix(request.name_prefix, violations),
        created_by=violations.check_text("created_by", request.created_by, max_length=MAX_CREATOR_LENGTH)
        or None,
        job_id=violations.check_id("job_id", request.job_id, "job") if request.job_id else None,
        content_types=_check_content_types(request, violations),
        created_after=(
            violations.check_timestamp("created_after", request.created_after)
            if request.HasField("created_after")
            else None
        ),
        created_before=(
            violations.check_timestamp("created_before", request.created_before)
            if request.HasField("created_before")
            else None
        ),
    )
    return FileQuery(
        org_id, filters, violations.check_page_size(request.page_size), _bound_to(org_id, filters)
    )


def _check_states(request: files_service_pb2.ListFilesRequest, violations: Violations) -> tuple[str, ...]:
    words = []
    for place, state in enumerate(request.states):
        word = STATE_WORDS.get(state)
        if word is None:
            violations.add(f"states[{place}]", f"is {state}, which is no state of a file")
        else:
            words.append(word)
    return tuple(sorted(set(words)))


def _check_name_prefix(prefix: str, violations: Violations) -> str:
    size = len(prefix.encode())
    if size > MAX_NAME_BYTES:
        violations.add("name_prefix", f"is {size} bytes long, more than {MAX_NAME_BYTES}")
        return ""
    return violations.check_text("name_prefix", prefix, max_length=MAX_NAME_BYTES)


def _check_content_types(
    request: files_service_pb2.ListFilesRequest, violations: Violations
) -> tuple[str, ...]:
    if len(request.content_types) > _MAX_CONTENT_TYPES:
        violations.add("content_types", f"are {len(request.content_types)}, more than {_MAX_CONTENT_TYPES}")
        return ()
    for place, content_type in enumerate(request.content_types):
        check_content_type(f"content_types[{place}]", content_type, violations)
    return tuple(sorted(set(map(normalised_type, request.content_types))))


def _bound_to(org_id: str, filters: FileFilters) -> dict[str, Any]:
    given = {
        "states": filters.states,
        "name_prefix": filters.name_prefix,
        "created_by": filters.created_by,
        "job_id": filters.job_id and format_id("job", filters.job_id),
        "content_types": filters.content_types,
        "created_after": filters.created_after,
        "created_before": filters.created_before,
    }
    # Versions that do not know the filters take each other's tokens as long as none is used.
    return {"org_id": org_id} | {name: value for name, value in given.items() if value}
