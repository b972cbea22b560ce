"""The published job types as the creation of jobs needs them, kept in memory."""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

import orjson
import structlog
from jsonschema_rs import Draft202012Validator

from millrace_database import job_types_repository
from millrace_database.database import Database
from millrace_database.job_options import TypeOptions
from millrace_database.job_types_repository import JobTypeRecord
from millrace_runtime.input_schema import compile_schema

MAX_TYPE_LENGTH = 128
"""No job type has a longer name."""

_FRESH_SECONDS = 2.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KnownType:
    """A published job type.

    Attributes:
        max_attempts: how many attempts a job gets when its creator names no number.
        max_delay: the longest wait between attempts when its creator names none; None: not known.
        schema_json: the JSON Schema of its input.
        validator: checks inputs against it; None: it is no schema that could be used.

    """

    max_attempts: int
    max_delay: timedelta | None
    schema_json: str
    validator: Draft202012Validator | None


class JobTypeCatalog:
    """Finds published job types by name, mostly without a query.

    A type that was published a moment ago is found at once, since one that is not in memory is always looked up. A
    change of a known type (another schema, say) is noticed within 2 seconds. No query is made while nobody asks.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, KnownType] = {}
        self._read_at = -_FRESH_SECONDS
        self._reading = asyncio.Lock()

    async def find(self, names: Collection[str]) -> Mapping[str, KnownType]:
        """Return the known types, those among `names` that were ever published for certain. Names are valid text."""
        if self._missing(names):
            async with self._reading:
                if missing := self._missing(names):
                    await self._read(missing)
        return self._known

    def _missing(self, names: Collection[str]) -> set[str]:
        if time.monotonic() - self._read_at >= _FRESH_SECONDS:
            return {*names, *self._known}
        return set(names) - self._known.keys()

    async def _read(self, names: Collection[str]) -> None:
        is_complete = self._known.keys() <= set(names)
        started_at = time.monotonic()
        async with self._database.connection() as connection:
            records = await job_types_repository.get_job_types(connection, list(names))
        found = {name: self._known_type(record) for name, record in records.items()}
        if is_complete:
            self._known, self._read_at = found, started_at
        else:
            self._known = self._known | found

    def _known_type(self, record: JobTypeRecord) -> KnownType:
        known = self._known.get(record.type)
        if known is not None and known.schema_json == record.input_schema_json:
            validator = known.validator
        else:
            validator = _validator(record)
        retry = TypeOptions.from_json(record.options_json).retry
        max_delay = None if retry is None else retry.max_delay
        return KnownType(record.max_attempts, max_delay, record.input_schema_json, validator)


def _validator(record: JobTypeRecord) -> Draft202012Validator | None:
    try:
        return compile_schema(orjson.loads(record.input_schema_json))
    except ValueError as error:
        _log.warning("input schema cannot be used", job_type=record.type, error=str(error))
        return None
