from collections.abc import Iterable

import orjson

from millrace_database import Database
from millrace_database.job_types_repository import PublishedType, publish_job_types
from millrace_worker.handler import Handler
from millrace_worker.transient import DATABASE_ERRORS, Outage


async def publish(database: Database, handlers: Iterable[Handler]) -> None:
    """Make the handlers' job types known, trying again until the database takes them."""
    types = [_published(handler) for handler in handlers]
    outage = Outage("publish job types")
    while True:
        try:
            async with database.transaction() as connection:
                await publish_job_types(connection, types)
        except DATABASE_ERRORS as error:
            await outage.wait(error)
        else:
            outage.is_over()
            return


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
