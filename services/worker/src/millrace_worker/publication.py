from collections.abc import Collection, Iterable, Sequence

import orjson
import structlog

from millrace_database import Database
from millrace_database.job_types_repository import PublishedType, get_job_types, publish_job_types
from millrace_database.system_schedules_repository import PublishedSchedule, publish_system_schedules
from millrace_worker.handler import Handler
from millrace_worker.transient import DATABASE_ERRORS, Outage

_log = structlog.get_logger(__name__)


async def publish(
    database: Database, handlers: Iterable[Handler], system_schedules: Sequence[PublishedSchedule] = ()
) -> None:
    """Make the handlers' job types and the system schedules known, trying again until the database takes them.

    A dead-letter type that no worker has ever published is accepted, since its worker may start later, and logged.
    """
    types = [_published(handler) for handler in handlers]
    dead_letters = {letter for type_ in types if (letter := type_.options.dead_letter_type)}
    outage = Outage("publish job types")
    while True:
        try:
            async with database.transaction() as connection:
                await publish_job_types(connection, types)
                await publish_system_schedules(connection, system_schedules)
                known = (await get_job_types(connection, sorted(dead_letters))).keys()
        except DATABASE_ERRORS as error:
            await outage.wait(error)
        else:
            outage.is_over()
            _warn_of_unknown(dead_letters - known, types)
            return


def _warn_of_unknown(unknown: Collection[str], types: Iterable[PublishedType]) -> None:
    """Name the dead-letter types that nobody has published, perhaps because of a typing error."""
    for type_ in types:
        if type_.options.dead_letter_type in unknown:
            _log.warning(
                "no worker has ever published the type of its dead letters; they wait until one does",
                type=type_.type,
                dead_letter=type_.options.dead_letter_type,
            )


def _published(handler: Handler) -> PublishedType:
    return PublishedType(
        type=handler.type,
        label=handler.label,
        description=handler.description,
        input_schema_json=orjson.dumps(handler.input_schema).decode(),
        max_attempts=handler.attempts,
        timeout=handler.timeout,
        concurrency=handler.concurrency,
        options=handler.options,
    )
