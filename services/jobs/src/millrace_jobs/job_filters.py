"""Which jobs a caller means, checked."""

from collections.abc import Collection
from typing import TypeAlias

from millrace.jobs.v1 import jobs_service_pb2
from millrace_database.jobs_repository import JobFilters
from millrace_jobs.job_messages import status_word
from millrace_runtime.identity import ALL_ORGANISATIONS
from millrace_runtime.validation import Violations

_Filter: TypeAlias = jobs_service_pb2.ListJobsRequest | jobs_service_pb2.JobFilter

_MAX_NAMES = 1000
_MAX_NAME_LENGTH = 128
_MAX_CREATOR_LENGTH = 256
_MAX_METADATA_BYTES = 16 * 1024


def check_filters(org_id: str, filter_: _Filter, violations: Violations, *, prefix: str = "") -> JobFilters:
    """Return which jobs of `org_id`, as it was checked ("-": of all organisations), `filter_` means.

    All that is wrong is added to `violations`, with `prefix` before each field; the filters are good for nothing then.
    """
    metadata = violations.check_struct(f"{prefix}metadata", filter_.metadata, max_bytes=_MAX_METADATA_BYTES)
    return JobFilters(
        org_id=None if org_id == ALL_ORGANISATIONS else org_id,
        statuses=_check_statuses(filter_, violations, prefix),
        types=_check_names(f"{prefix}types", filter_.types, violations),
        created_by=violations.check_text(
            f"{prefix}created_by", filter_.created_by, max_length=_MAX_CREATOR_LENGTH
        )
        or None,
        created_after=(
            violations.check_timestamp(f"{prefix}created_after", filter_.created_after)
            if filter_.HasField("created_after")
            else None
        ),
        created_before=(
            violations.check_timestamp(f"{prefix}created_before", filter_.created_before)
            if filter_.HasField("created_before")
            else None
        ),
        schedule_id=(
            violations.check_id(f"{prefix}schedule_id", filter_.schedule_id, "schedule")
            if filter_.schedule_id
            else None
        ),
        metadata_json=metadata.text if metadata.value else None,
        error_codes=_check_names(f"{prefix}error_codes", filter_.error_codes, violations),
    )


def _check_statuses(filter_: _Filter, violations: Violations, prefix: str) -> tuple[str, ...]:
    words = []
    for place, status in enumerate(filter_.statuses):
        word = status_word(status)
        if word is None:
            violations.add(f"{prefix}statuses[{place}]", f"is {status}, which is no status of a job")
        else:
            words.append(word)
    return tuple(sorted(set(words)))


def _check_names(field: str, names: Collection[str], violations: Violations) -> tuple[str, ...]:
    if len(names) > _MAX_NAMES:
        violations.add(field, f"are {len(names)}, more than {_MAX_NAMES}")
        return ()
    checked = {
        violations.check_text(f"{field}[{place}]", name, max_length=_MAX_NAME_LENGTH, required=True)
        for place, name in enumerate(names)
    }
    return tuple(sorted(checked))
