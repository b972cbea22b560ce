import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from millrace.scheduler.v1 import schedule_pb2, scheduler_service_pb2, scheduler_service_pb2_grpc
from millrace_database.database import Database
from millrace_runtime.struct_json import datetime_to_timestamp
from support.jobs_api import ANY_TYPE, publish
from support.polling import eventually
from support.processes import ServiceProcess, stack
from support.scheduler_api import every

SCHEDULES = 60
SECONDS = 8
INTERVAL_SECONDS = 2
REPLICAS = 3
CREATED_AT_ONCE = 20


async def _create_schedules(
    scheduler: ServiceProcess, number: int, start_at: datetime, end_at: datetime
) -> None:
    at_once = asyncio.Semaphore(CREATED_AT_ONCE)
    async with grpc.aio.insecure_channel(scheduler.address) as channel:
        schedules = scheduler_service_pb2_grpc.SchedulerServiceStub(channel)

        async def create(index: int) -> None:
            request = scheduler_service_pb2.CreateScheduleRequest(
                org_id=f"org-{index % 7}",
                name=f"schedule {index}",
                type=ANY_TYPE,
                recurrence=every(INTERVAL_SECONDS),
                start_at=datetime_to_timestamp(start_at),
                end_at=datetime_to_timestamp(end_at),
            )
            if index % 2:
                request.catch_up_policy = schedule_pb2.CATCH_UP_POLICY_RUN_ALL
                request.catch_up_window.FromSeconds(3600)
            async with at_once:
                await schedules.CreateSchedule(request)

        async with asyncio.TaskGroup() as creating:
            for index in range(number):
                creating.create_task(create(index))


async def _kill_at_random(replicas: list[ServiceProcess], until: datetime) -> int:
    """Kill one scheduler after the other, and start each again; return how many kills there were."""
    kills = 0
    chance = random.Random(7)  # noqa: S311 - no secret
    while datetime.now(UTC) < until:
        victim = chance.choice(replicas)
        await asyncio.sleep(chance.uniform(0.1, 0.9))
        await victim.kill()
        kills += 1
        await victim.start(ready=chance.random() < 0.5)
    return kills


async def fire_under_kills(
    database: Database, database_url: str, folder: Path, *, schedules: int, seconds: int
) -> int:
    """Let three schedulers fire and be killed, compare jobs with times, and return how many kills there were."""
    await publish(database, ANY_TYPE, {"type": "object"})
    async with stack(database_url, folder, names=("jobs", "scheduler")) as services:
        replicas = [services.scheduler]
        for number in range(1, REPLICAS):
            replica = ServiceProcess(
                "scheduler", services.scheduler.environment, folder / f"scheduler{number}.log"
            )
            replicas.append(replica)
        try:
            async with asyncio.TaskGroup() as starting:
                for replica in replicas[1:]:
                    starting.create_task(replica.start())
            start_at = (datetime.now(UTC) + timedelta(seconds=2 + schedules / 100)).replace(microsecond=0)
            end_at = start_at + timedelta(seconds=seconds)
            await _create_schedules(replicas[0], schedules, start_at, end_at)
            kills = await _kill_at_random(replicas, end_at)

            async def all_are_through() -> bool:
                async with database.connection() as connection:
                    left: int = await connection.fetchval(
                        "SELECT count(*) FROM scheduled_jobs WHERE next_run_at IS NOT NULL"
                    )
                return not left

            await eventually(all_are_through, within=60)
        finally:
            for replica in replicas[1:]:
                if replica.running:
                    await replica.kill()
    times = {
        (start_at + timedelta(seconds=passed)).strftime("%Y-%m-%dT%H:%M:%SZ")
        for passed in range(0, seconds + 1, INTERVAL_SECONDS)
    }
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT schedule_id, metadata ->> 'scheduled_time' AS time, count(*) FROM jobs GROUP BY 1, 2"
        )
        counts = await connection.fetch("SELECT fired_count, missed_count, last_run_at FROM scheduled_jobs")
    assert {row["count"] for row in rows} == {1}
    assert {row["time"] for row in rows} == times
    assert Counter(row["schedule_id"] for row in rows) == dict.fromkeys(
        {row["schedule_id"] for row in rows}, len(times)
    )
    assert len(rows) == schedules * len(times)
    assert {tuple(row) for row in counts} == {(len(times), 0, end_at)}
    return kills


async def test_each_time_has_one_job_whichever_schedulers_die(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    kills = await fire_under_kills(database, database_url, tmp_path, schedules=SCHEDULES, seconds=SECONDS)
    assert kills > 0
