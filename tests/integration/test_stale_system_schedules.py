"""System schedules are removed by a scheduler that has seen them without a worker for long enough."""

from collections.abc import Sequence

from millrace_database.database import Database
from millrace_database.system_schedules_repository import (
    PublishedSchedule,
    list_system_schedules,
    publish_system_schedules,
)
from millrace_scheduler.stale_system_schedules import WATCHED_SECONDS, StaleSystemSchedules


class Watching:
    """A scheduler's removal of stale schedules, at times of the test."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = 0.0
        self.stale = StaleSystemSchedules(lambda: self._now)

    async def publish(self, type_: str, *, days_ago: int = 0) -> None:
        async with self._database.connection() as connection:
            await publish_system_schedules(connection, [PublishedSchedule(type_, "@hourly", "UTC", "")])
            await connection.execute(
                "UPDATE system_schedules SET published_at = now() - $1 * interval '1 day' WHERE type = $2",
                days_ago,
                type_,
            )

    async def left_after(self, seconds: float) -> Sequence[str]:
        """The schedules that are there when it has removed what is stale so long after the last time."""
        self._now += seconds
        async with self._database.connection() as connection:
            await self.stale.remove(connection)
            return [schedule.type for schedule in await list_system_schedules(connection)]


async def test_a_stale_schedule_goes_when_it_has_been_watched(database: Database) -> None:
    watching = Watching(database)
    await watching.publish("test:new")
    await watching.publish("test:old", days_ago=2)
    assert await watching.left_after(WATCHED_SECONDS * 2) == ["test:new", "test:old"]
    assert await watching.left_after(WATCHED_SECONDS - 1) == ["test:new", "test:old"]
    assert await watching.left_after(1) == ["test:new"]


async def test_a_schedule_that_comes_back_is_watched_anew(database: Database) -> None:
    watching = Watching(database)
    await watching.publish("test:old", days_ago=2)
    await watching.left_after(0)
    await watching.publish("test:old")
    await watching.left_after(WATCHED_SECONDS)
    await watching.publish("test:old", days_ago=2)
    assert await watching.left_after(1) == ["test:old"]


async def test_an_outage_of_the_database_is_not_watched(database: Database) -> None:
    watching = Watching(database)
    await watching.publish("test:old", days_ago=2)
    await watching.left_after(0)
    watching.stale.interrupted()
    assert await watching.left_after(WATCHED_SECONDS) == ["test:old"]
    assert await watching.left_after(WATCHED_SECONDS) == []
