"""Which jobs to list, and the query that finds them.

Nothing that a claim or a completion changes is in an index of `jobs`, so jobs of a status are found where that status
leaves a trace: an unfinished job has an entry in the queue, one that ended without success has an `outcome`, and what
has completed is what is left of all jobs in the order of their ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    cast,
    column,
    false,
    func,
    literal,
    literal_column,
    select,
    table,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from millrace_database.ids import first_id
from millrace_database.tables import FAILED_STATUSES, JOB_STATUSES, jobs

# Ids carry the clock of the service that made them, `created_at` the database's. The id bounds what is read; the
# result is right as long as the two clocks differ by less.
_CLOCK_TOLERANCE = timedelta(hours=1)
_NO_LABELS = "{}"
_RUNNING_STATUSES = ("processing", "cancelling")
# The start of an attempt forgets the error of the one before.
_STATUSES_WITH_ERROR = frozenset({"pending", *FAILED_STATUSES})
# As a constant, which the predicates of the queue's indexes are compared with.
_RUNNING = literal_column("'running'", Text)

# What is asked of the entries of unfinished jobs; the table is the queue engine's.
_queue = table(
    "queue", column("id", PG_UUID), column("tenant", Text), column("type", Text), column("state", Text)
)


@dataclass(frozen=True, slots=True)
class JobFilters:
    """Which jobs to list: all that are given must match.

    Attributes:
        org_id: whose jobs; None: those of all organisations.
        statuses: any of these; empty: all.
        types: any of these; empty: all.
        created_by: who asked for them.
        created_after: created at or after this time.
        created_before: created before this time.
        schedule_id: the schedule that made them.
        metadata_json: a JSON object; their metadata contains these keys with these values.
        error_codes: any of these codes of the error of their latest attempt; empty: all.
        parent_job_id: the job that they were made for.

    """

    org_id: str | None
    statuses: Sequence[str] = ()
    types: Sequence[str] = ()
    created_by: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    schedule_id: UUID | None = None
    metadata_json: str | None = None
    error_codes: Sequence[str] = ()
    parent_job_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """At most `limit` jobs behind the id `after`, in the order of ids."""

    after: UUID | None
    limit: int
    oldest_first: bool = False

    def by_id(self, id_: ColumnElement[UUID]) -> ColumnElement[Any]:
        return id_.asc() if self.oldest_first else id_.desc()

    def equal(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Order by what is the same of all, in the direction in which an index on it and descending ids is read."""
        return column.desc() if self.oldest_first else column.asc()


def list_statement(filters: JobFilters, after: UUID | None, limit: int) -> Select[Any]:
    """Return the query for at most `limit` jobs by descending id, those behind `after`.

    It finds the ids of the page first and reads the wide rows of those only. Where the jobs wanted are found in
    several places, each has a branch of its own that gives its newest ones.
    """
    page = _ids(filters, _Part(after, limit)).cte("page").prefix_with("MATERIALIZED", dialect="postgresql")
    return (
        select(*_columns())
        .join_from(page, jobs, jobs.c.job_id == page.c.job_id)
        .order_by(jobs.c.job_id.desc())
    )


def oldest_ids_statement(filters: JobFilters, after: UUID | None, limit: int) -> Select[tuple[UUID]]:
    """Return the query for the ids of at most `limit` jobs by ascending id, those behind `after`."""
    return _ids(filters, _Part(after, limit, oldest_first=True))


def _ids(filters: JobFilters, part: _Part) -> Select[tuple[UUID]]:
    branches = _branches(filters, part)
    return branches[0] if len(branches) == 1 else _first_of_all(branches, part)


def _branches(filters: JobFilters, part: _Part) -> list[Select[tuple[UUID]]]:
    statuses = set(filters.statuses or JOB_STATUSES)
    if filters.error_codes:
        statuses &= _STATUSES_WITH_ERROR
    if statuses.issuperset(JOB_STATUSES):
        return [_recorded(filters, part)]
    if filters.parent_job_id is not None:
        # They are few, so that the status of each can be looked at.
        return [_recorded(filters, part, _is_one_of(jobs.c.status, sorted(statuses), Text))]
    branches = []
    if "pending" in statuses:
        branches.append(_waiting(filters, part))
    if running := [status for status in _RUNNING_STATUSES if status in statuses]:
        branches.append(_running(filters, part, running))
    if "completed" in statuses:
        branches.append(_recorded(filters, part, jobs.c.status == "completed"))
    outcomes = [status for status in FAILED_STATUSES if status in statuses]
    if outcomes and filters.error_codes:
        branches.append(_ended_with_error(filters, part, outcomes))
    else:
        branches.extend(_ended(filters, part, outcome) for outcome in outcomes)
    return branches or [select(jobs.c.job_id).where(false())]


def _first_of_all(branches: Sequence[Select[tuple[UUID]]], part: _Part) -> Select[tuple[UUID]]:
    found = union_all(*(select(branch.subquery().c.job_id) for branch in branches)).subquery("found")
    return select(found.c.job_id).order_by(part.by_id(found.c.job_id)).limit(part.limit)


def _recorded(filters: JobFilters, part: _Part, *conditions: ColumnElement[bool]) -> Select[tuple[UUID]]:
    """Find jobs in the order of their ids. An index gives those of one type in that order, but not those of two."""
    order, found = _order_and_conditions(filters, part)
    jobs_of_one = (
        select(jobs.c.job_id)
        .where(*found, *_of_errors(filters), *conditions)
        .order_by(*order)
        .limit(part.limit)
    )
    if len(filters.types) > 1:
        return _first_of_each(filters.types, jobs.c.type, jobs_of_one, part)
    return jobs_of_one.where(*_any_of(jobs.c.type, filters.types))


def _first_of_each(
    values: Sequence[str], column: ColumnElement[str], jobs_of_one: Select[tuple[UUID]], part: _Part
) -> Select[tuple[UUID]]:
    """Find the first jobs with any of several values in a column: the first ones with each of them, merged."""
    wanted = (
        func.unnest(literal(list(dict.fromkeys(values)), ARRAY(Text)))
        .table_valued("value")
        .render_derived("wanted")
    )
    branch = jobs_of_one.where(column == wanted.c.value).correlate(wanted).lateral("branch")
    return (
        select(branch.c.job_id)
        .select_from(wanted)
        .join(branch, true())
        .order_by(part.by_id(branch.c.job_id))
        .limit(part.limit)
    )


def _ended(filters: JobFilters, part: _Part, outcome: str) -> Select[tuple[UUID]]:
    """Find jobs that ended without success."""
    order, conditions = _order_and_conditions(filters, part)
    return (
        select(jobs.c.job_id)
        .where(*conditions, *_any_of(jobs.c.type, filters.types), _is_one_of(jobs.c.outcome, [outcome], Text))
        .order_by(*order[:-1], part.equal(jobs.c.outcome), order[-1])
        .limit(part.limit)
    )


def _ended_with_error(filters: JobFilters, part: _Part, outcomes: Sequence[str]) -> Select[tuple[UUID]]:
    """Find jobs that ended without success by the codes of their errors.

    All that have a final code did; which of them are meant is asked of the status, for which no index could be
    preferred to that of the codes.
    """
    order, conditions = _order_and_conditions(filters, part)
    of_one_code = (
        select(jobs.c.job_id)
        .where(*conditions, *_any_of(jobs.c.type, filters.types), *_any_of(jobs.c.status, outcomes))
        .order_by(*order)
        .limit(part.limit)
    )
    return _first_of_each(filters.error_codes, jobs.c.final_error_code, of_one_code, part)


def _waiting(filters: JobFilters, part: _Part) -> Select[tuple[UUID]]:
    """Find pending jobs by their entries, whether those are due or not."""
    conditions = [_queue.c.state != _RUNNING, *_of_entries(filters, part), _has_record(filters, ["pending"])]
    order: list[ColumnElement[Any]] = [part.by_id(_queue.c.id)]
    if filters.org_id is not None:
        conditions.append(_is_one_of(_queue.c.tenant, [filters.org_id], Text))
        # Both in one direction, in which the index is read.
        order.insert(0, part.by_id(_queue.c.tenant))
    return select(_queue.c.id.label("job_id")).where(*conditions).order_by(*order).limit(part.limit)


def _running(filters: JobFilters, part: _Part, statuses: Sequence[str]) -> Select[tuple[UUID]]:
    """Find jobs that workers hold by all such entries: they are few, and older than what waits beside them."""
    conditions = [_queue.c.state == _RUNNING, *_of_entries(filters, part)]
    if filters.org_id is not None:
        conditions.append(_queue.c.tenant == filters.org_id)
    held = (
        select(_queue.c.id).where(*conditions).cte("held").prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return (
        select(held.c.id.label("job_id"))
        .join(jobs, jobs.c.job_id == held.c.id)
        .where(*_any_of(jobs.c.status, statuses), *_of_records(filters), *_of_errors(filters))
        .order_by(part.by_id(held.c.id))
        .limit(part.limit)
    )


def _has_record(filters: JobFilters, statuses: Sequence[str]) -> ColumnElement[bool]:
    """Return that an entry's job matches what only its record tells.

    OFFSET 0 keeps the planner from joining the other way round, which it would by wrong guesses of how many jobs are
    of a status. With one of the filters that have an index of their own it may. The organisation, which is the
    entry's, is asked for because the index on it and on who created a job serves no other query.
    """
    of_org = [] if filters.org_id is None else [jobs.c.org_id == filters.org_id]
    record: Select[int] = select(literal(1)).where(
        jobs.c.job_id == _queue.c.id,
        *of_org,
        *_any_of(jobs.c.status, statuses),
        *_of_records(filters),
        *_of_errors(filters),
    )
    if filters.created_by is None and filters.schedule_id is None and filters.metadata_json is None:
        record = record.offset(0)
    return record.correlate(_queue).exists()


def _order_and_conditions(
    filters: JobFilters, part: _Part
) -> tuple[list[ColumnElement[Any]], list[ColumnElement[bool]]]:
    """Return what to order by, and the conditions but those of status, type and error.

    The jobs of one parent, schedule or organisation are asked for as those of any of a list of one, ordered by that and then
    by id, which is the same order. A plain equality would let the planner read all jobs in the order of their ids
    and leave out those of others, because it takes matches to be spread evenly; they may be far from the newest.
    """
    order = [part.by_id(jobs.c.job_id)]
    conditions = [*_of_ids(jobs.c.job_id, filters, part), *_of_records(filters)]
    if filters.parent_job_id is not None:
        conditions.append(_is_one_of(jobs.c.parent_job_id, [filters.parent_job_id], PG_UUID))
        order.insert(0, part.equal(jobs.c.parent_job_id))
        if filters.org_id is not None:
            conditions.append(jobs.c.org_id == filters.org_id)
    elif filters.schedule_id is not None:
        order.insert(0, part.equal(jobs.c.schedule_id))
        if filters.org_id is not None:
            conditions.append(jobs.c.org_id == filters.org_id)
    elif filters.org_id is not None:
        conditions.append(_is_one_of(jobs.c.org_id, [filters.org_id], Text))
        order.insert(0, part.equal(jobs.c.org_id))
    return order, conditions


def _is_one_of(column: ColumnElement[Any], values: Sequence[object], type_: Any) -> ColumnElement[bool]:
    return column == func.any(literal(list(values), ARRAY(type_)))


def _any_of(column: ColumnElement[str], values: Sequence[str]) -> list[ColumnElement[bool]]:
    if not values:
        return []
    return [column == values[0] if len(values) == 1 else _is_one_of(column, values, Text)]


def _of_entries(filters: JobFilters, part: _Part) -> list[ColumnElement[bool]]:
    return [*_of_ids(_queue.c.id, filters, part), *_any_of(_queue.c.type, filters.types)]


def _of_ids(id_: ColumnElement[UUID], filters: JobFilters, part: _Part) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if part.after is not None:
        conditions.append(id_ > part.after if part.oldest_first else id_ < part.after)
    if filters.created_after is not None:
        conditions.append(id_ >= first_id(filters.created_after, -_CLOCK_TOLERANCE))
    if filters.created_before is not None:
        conditions.append(id_ < first_id(filters.created_before, _CLOCK_TOLERANCE))
    return conditions


def _of_records(filters: JobFilters) -> list[ColumnElement[bool]]:
    """Return the conditions on what stands in no entry of the queue."""
    conditions: list[ColumnElement[bool]] = []
    if filters.created_by is not None:
        conditions.append(jobs.c.created_by == filters.created_by)
    if filters.created_after is not None:
        conditions.append(jobs.c.created_at >= filters.created_after)
    if filters.created_before is not None:
        conditions.append(jobs.c.created_at < filters.created_before)
    if filters.schedule_id is not None:
        conditions.append(_is_one_of(jobs.c.schedule_id, [filters.schedule_id], PG_UUID))
    if filters.metadata_json not in (None, _NO_LABELS):
        # The index leaves out jobs without labels, and serves only a query that does so word for word.
        conditions.append(jobs.c.metadata.op("@>")(cast(literal(filters.metadata_json, Text), JSONB)))
        conditions.append(jobs.c.metadata != literal_column(f"'{_NO_LABELS}'::jsonb"))
    return conditions


def _of_errors(filters: JobFilters) -> list[ColumnElement[bool]]:
    return _any_of(jobs.c.error_code, filters.error_codes)


def _columns() -> list[ColumnElement[Any]]:
    as_text = {"input", "output", "metadata", "options"}
    return [
        cast(column, Text).label(f"{column.name}_json") if column.name in as_text else column
        for column in jobs.c
        if column.computed is None
    ] + [func.now().label("read_at")]
