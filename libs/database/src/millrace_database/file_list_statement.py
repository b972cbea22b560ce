"""Which files to list, and the query that finds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from millrace_database.file_tables import FILE_STATES, MEDIA_TYPE, files
from millrace_database.ids import first_id

DELETED = "deleted"

_MEDIA_TYPE = literal_column(MEDIA_TYPE, Text)

# Ids carry the clock of the service that made them, `created_at` the database's. The id bounds what is read; the
# result is right as long as the two clocks differ by less.
_CLOCK_TOLERANCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class FileFilters:
    """Which files of an organisation to list: all that are given must match.

    Attributes:
        states: any of these: "temporary", "persistent", "with_job", "deleted"; empty: all but deleted ones.
        name_prefix: the name begins with this.
        created_by: who uploaded them, or asked for the jobs that made them.
        job_id: the job that made them.
        content_types: any of these media types, in lower case; empty: all. One without parameters is also that of files whose
            type has some; one with parameters is that of files that have exactly these.
        created_after: created at or after this time.
        created_before: created before this time.

    """

    states: Sequence[str] = ()
    name_prefix: str = ""
    created_by: str | None = None
    job_id: UUID | None = None
    content_types: Sequence[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None


def list_statement(org_id: str, filters: FileFilters, after: UUID | None, limit: int) -> Select[Any]:
    """Return the query for at most `limit` files by descending id, those behind `after`.

    It finds the ids of the page first. Without a filter that has an index of its own these are merged of the newest of each
    state, so that deleted files, however many, are not read.
    """
    page = _ids(org_id, filters, after, limit).cte("page").prefix_with("MATERIALIZED", dialect="postgresql")
    return (
        select(*files.c)
        .join_from(page, files, files.c.file_id == page.c.file_id)
        .order_by(files.c.file_id.desc())
    )


def _ids(org_id: str, filters: FileFilters, after: UUID | None, limit: int) -> Select[tuple[UUID]]:
    found = select(files.c.file_id).where(
        _is_one_of(files.c.org_id, [org_id], Text),
        or_(files.c.expires_at.is_(None), files.c.expires_at > func.now()),
        *_of_times(filters, after),
    )
    states = set(filters.states) or set(FILE_STATES)
    if filters.job_id is not None:
        # The files of one job are few.
        of_job = found.where(
            files.c.job_id == filters.job_id, *_of_states(states), *_of_names(filters), *_of_types(filters)
        )
        return of_job.order_by(files.c.file_id.desc()).limit(limit)
    ordered = found.order_by(files.c.org_id, files.c.file_id.desc()).limit(limit)
    if filters.content_types:
        return _newest_of_types(
            ordered.where(*_of_states(states), *_of_names(filters)), filters.content_types, limit
        )
    if filters.created_by is not None or filters.name_prefix:
        return ordered.where(*_of_states(states), *_of_names(filters))
    return _newest_of_states(ordered, states, limit)


def _newest_of_states(ordered: Select[tuple[UUID]], states: set[str], limit: int) -> Select[tuple[UUID]]:
    deleted = ordered.where(files.c.deleted_at.is_not(None))
    if states == {DELETED}:
        return deleted
    kept = _first_of_each(
        ordered.where(files.c.deleted_at.is_(None)), files.c.state, sorted(states - {DELETED}), limit
    )
    if DELETED not in states:
        return kept
    return _first_of_both(kept, deleted, limit)


def _newest_of_types(ordered: Select[tuple[UUID]], types: Sequence[str], limit: int) -> Select[tuple[UUID]]:
    without, with_ = _by_parameters(types)
    if not with_:
        return _first_of_each(ordered, _MEDIA_TYPE, without, limit)
    exactly = _first_of_each(ordered, files.c.content_type, with_, limit)
    if not without:
        return exactly
    return _first_of_both(exactly, _first_of_each(ordered, _MEDIA_TYPE, without, limit), limit)


def _first_of_both(some: Select[tuple[UUID]], others: Select[tuple[UUID]], limit: int) -> Select[tuple[UUID]]:
    both = union_all(select(some.subquery().c.file_id), select(others.subquery().c.file_id)).subquery("both")
    return select(both.c.file_id).order_by(both.c.file_id.desc()).limit(limit)


def _first_of_each(
    of_one: Select[tuple[UUID]], column: ColumnElement[str], values: Sequence[str], limit: int
) -> Select[tuple[UUID]]:
    """Merge the first files with each of several values in a column: an index gives those of one in their order."""
    wanted = (
        func.unnest(literal(list(dict.fromkeys(values)), ARRAY(Text)))
        .table_valued("value")
        .render_derived("wanted")
    )
    branch = of_one.where(column == wanted.c.value).correlate(wanted).lateral("branch")
    return (
        select(branch.c.file_id)
        .select_from(wanted)
        .join(branch, true())
        .order_by(branch.c.file_id.desc())
        .limit(limit)
    )


def _of_times(filters: FileFilters, after: UUID | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if after is not None:
        conditions.append(files.c.file_id < literal(after, PG_UUID))
    if filters.created_after is not None:
        conditions.append(files.c.created_at >= filters.created_after)
        conditions.append(files.c.file_id >= first_id(filters.created_after, -_CLOCK_TOLERANCE))
    if filters.created_before is not None:
        conditions.append(files.c.created_at < filters.created_before)
        conditions.append(files.c.file_id < first_id(filters.created_before, _CLOCK_TOLERANCE))
    return conditions


def _of_states(states: set[str]) -> list[ColumnElement[bool]]:
    kept = sorted(states - {DELETED})
    conditions: list[ColumnElement[bool]] = []
    if kept:
        conditions.append(files.c.deleted_at.is_(None) & _is_one_of(files.c.state, kept, Text))
    if DELETED in states:
        conditions.append(files.c.deleted_at.is_not(None))
    return [or_(*conditions)]


def _of_names(filters: FileFilters) -> list[ColumnElement[bool]]:
    """Return the conditions on who made a file and how it is called."""
    conditions: list[ColumnElement[bool]] = []
    if filters.created_by is not None:
        conditions.append(files.c.created_by == filters.created_by)
    if filters.name_prefix:
        conditions.append(files.c.name.startswith(filters.name_prefix, autoescape=True))
    return conditions


def _of_types(filters: FileFilters) -> list[ColumnElement[bool]]:
    if not filters.content_types:
        return []
    without, with_ = _by_parameters(filters.content_types)
    return [or_(_is_one_of(_MEDIA_TYPE, without, Text), _is_one_of(files.c.content_type, with_, Text))]


def _by_parameters(types: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return those without parameters, and those with some that none without includes."""
    without = [type_ for type_ in types if ";" not in type_]
    return without, [
        type_ for type_ in types if ";" in type_ and type_.partition(";")[0].rstrip() not in without
    ]


def _is_one_of(column: ColumnElement[Any], values: Sequence[object], type_: Any) -> ColumnElement[bool]:
    """Ask for any of a list, even of one: so the planner does not read the files of all organisations in the order of their ids."""
    return column == func.any(literal(list(values), ARRAY(type_)))
