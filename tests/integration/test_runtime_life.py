import asyncio
import gc
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millrace.files.v1 import files_service_pb2, files_service_pb2_grpc
from millrace_database.availability import DatabaseUnavailableError
from millrace_database.connection_url import with_database
from millrace_database.database import Database
from millrace_database.embedded import EmbeddedPostgres
from millrace_database.migrate import migrate
from millrace_runtime.identity import current_caller
from millrace_runtime.service import RunningService, running
from millrace_runtime.settings import Settings, StartupError
from support.postgres_outage import stopped
from support.toy_service import SERVICE, Toy

SETTINGS = Settings(jobs_port=0)
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Caller:
    """Calls a toy at an address."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._health: Any = health_pb2_grpc.HealthStub(channel)
        self._files = files_service_pb2_grpc.FilesServiceStub(channel)

    async def health(self, service: str = "") -> int:
        answer = await self._health.Check(health_pb2.HealthCheckRequest(service=service))
        status: int = answer.status
        return status

    async def watch_health(self, service: str) -> AsyncIterator[int]:
        async for answer in self._health.Watch(health_pb2.HealthCheckRequest(service=service)):
            yield answer.status

    async def until_health(self, status: int) -> None:
        """Wait until the health of the service and of the whole server is `status`."""
        async with asyncio.timeout(20):
            for name in ("", SERVICE):
                async for answer in self._health.Watch(health_pb2.HealthCheckRequest(service=name)):
                    if answer.status == status:
                        break

    async def get(self) -> str:
        answer = await self._files.GetFile(files_service_pb2.GetFileRequest(org_id="acme"))
        return answer.file.org_id

    async def refused(self) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await self.get()
        return refusal.value.code()


@asynccontextmanager
async def calling(service: RunningService) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(service.address) as channel:
        yield Caller(channel)


async def test_it_listens_while_the_database_is_away_and_follows_it(tmp_path: Path) -> None:
    toy = Toy()
    with EmbeddedPostgres.start(tmp_path, durable=False) as server, ExitStack() as outage:
        await migrate(server.url)
        database = await Database.open(server.url, application_name="toy")
        outage.enter_context(stopped(tmp_path))
        async with (
            running(toy.definition, SETTINGS, database, wait_until_open=False) as service,
            calling(service) as caller,
        ):
            assert await caller.health() == NOT_SERVING
            assert await caller.health(SERVICE) == NOT_SERVING
            assert await caller.refused() == grpc.StatusCode.UNAVAILABLE
            assert toy.events == []

            outage.close()
            await caller.until_health(SERVING)
            assert await caller.get() == "acme"
            assert toy.events == ["opened", f"started at {service.address}"]

            with stopped(tmp_path):
                await caller.until_health(NOT_SERVING)
            await caller.until_health(SERVING)
            assert await caller.get() == "acme"
        assert toy.events[2:] == ["drained", "duty ended", "closed"]
        await database.close()


async def test_it_waits_for_the_schema(postgres_url: str, database_url: str) -> None:
    name = f"{database_url.rpartition('/')[2].partition('?')[0]}_empty"
    async with _empty_database(postgres_url, name) as url:
        database = await Database.open(url, application_name="toy")
        async with (
            running(Toy().definition, SETTINGS, database, wait_until_open=False) as service,
            calling(service) as caller,
        ):
            assert await caller.health(SERVICE) == NOT_SERVING
            assert await caller.refused() == grpc.StatusCode.UNAVAILABLE
            await migrate(url)
            await caller.until_health(SERVING)
        await database.close()


@asynccontextmanager
async def _empty_database(postgres_url: str, name: str) -> AsyncIterator[str]:
    server = await Database.open(postgres_url, application_name="test")
    async with server.connection() as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    try:
        yield with_database(postgres_url, name)
    finally:
        async with server.connection() as connection:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


async def test_a_database_that_refuses_ends_it_with_a_reason(postgres_url: str) -> None:
    database = await Database.open(with_database(postgres_url, "nowhere"), application_name="toy")
    with pytest.raises(StartupError, match='database "nowhere" does not exist'):
        async with running(Toy().definition, SETTINGS, database):
            pass
    await database.close()


async def test_opening_is_tried_again_while_the_database_is_away(database: Database) -> None:
    failures = [DatabaseUnavailableError("away"), ConnectionResetError("away")]

    def opening() -> None:
        if failures:
            raise failures.pop()

    toy = Toy(opening=opening)
    async with running(toy.definition, SETTINGS, database):
        assert toy.events[0] == "opened"
    assert failures == []


async def test_a_fault_while_opening_ends_it(database: Database) -> None:
    def opening() -> None:
        raise KeyError("no such module")

    with pytest.raises(KeyError, match="no such module"):
        async with running(Toy(opening=opening).definition, SETTINGS, database):
            pass


async def test_it_can_be_stopped_before_it_has_opened(database: Database) -> None:
    def opening() -> None:
        raise DatabaseUnavailableError("away")

    toy = Toy(opening=opening)
    async with (
        asyncio.timeout(5),
        running(toy.definition, SETTINGS, database, wait_until_open=False) as service,
        calling(service) as caller,
    ):
        assert await caller.health() == NOT_SERVING
    assert toy.events == []


class Gate:
    """A call that says when it has begun, and ends when it is let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()

    async def pass_through(self) -> None:
        self.entered.set()
        await self.let_go.wait()


async def test_a_stop_in_the_middle_of_its_start_leaves_nothing_running(database: Database) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    for steps in range(40):
        service = RunningService(Toy().definition, SETTINGS, database)
        entering = asyncio.ensure_future(service.__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait([entering])
        if not entering.cancelled():
            await service.__aexit__(None, None, None)
        del service, entering
        gc.collect()
    assert not faults


async def test_while_it_drains_it_is_unhealthy_and_ends_the_calls_it_has(database: Database) -> None:
    call, drain = Gate(), Gate()
    toy = Toy(get_file=call.pass_through, drain=drain.pass_through)
    async with (
        asyncio.timeout(20),
        running(toy.definition, SETTINGS, database) as service,
        calling(service) as caller,
    ):
        answer = asyncio.create_task(caller.get())
        await call.entered.wait()
        assert await caller.health(SERVICE) == SERVING
        service.request_stop()
        await drain.entered.wait()
        assert await caller.health(SERVICE) == NOT_SERVING
        assert await caller.health() == NOT_SERVING
        drain.let_go.set()
        call.let_go.set()
        assert await answer == "acme"
        await service.wait_until_ended()
    assert toy.events[2:] == ["drained", "duty ended", "closed"]


async def test_who_watches_its_health_is_told_and_does_not_hold_up_its_end(database: Database) -> None:
    async with running(Toy().definition, SETTINGS, database) as service, calling(service) as caller:
        watches = [caller.watch_health(name) for name in ("", SERVICE, "nothing.of.this.Name")]
        assert [await anext(watch) for watch in watches] == [SERVING, SERVING, SERVICE_UNKNOWN]
        async with asyncio.timeout(3):
            service.request_stop()
            assert [[status async for status in watch] for watch in watches] == [
                [NOT_SERVING],
                [NOT_SERVING],
                [],
            ]
            await service.wait_until_ended()


async def test_a_drain_and_a_call_that_do_not_end_are_cut_off(database: Database) -> None:
    call, drain = Gate(), Gate()
    toy = Toy(get_file=call.pass_through, drain=drain.pass_through)
    settings = Settings(jobs_port=0, shutdown_grace_seconds=0.2)
    async with (
        asyncio.timeout(20),
        running(toy.definition, settings, database) as service,
        calling(service) as caller,
    ):
        answer = asyncio.create_task(caller.refused())
        await call.entered.wait()
        service.request_stop()
        await service.wait_until_ended()
        assert await answer in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert toy.events[2:] == ["drained", "duty ended", "closed"]


async def test_a_duty_that_fails_ends_the_service(database: Database) -> None:
    duty = Gate()

    async def failing() -> None:
        await duty.pass_through()
        raise ValueError("the duty failed")

    toy = Toy(duty=failing)

    async def run() -> None:
        async with running(toy.definition, SETTINGS, database) as service, calling(service) as caller:
            assert await caller.health() == SERVING
            duty.let_go.set()
            await service.wait_until_ended()
            assert await caller.refused() == grpc.StatusCode.UNAVAILABLE

    with pytest.raises(ValueError, match="the duty failed"):
        await asyncio.wait_for(run(), timeout=10)
    assert toy.events[2:] == ["duty ended", "closed"]


async def test_a_taken_port_is_an_error_with_a_reason(database: Database) -> None:
    async with running(Toy().definition, SETTINGS, database) as first:
        settings = Settings(jobs_port=int(first.address.rpartition(":")[2]))
        with pytest.raises(StartupError, match=f"cannot listen on {first.address}: address already in use"):
            async with running(Toy().definition, settings, database):
                pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104 - what is refused
async def test_other_machines_are_let_in_only_on_request(database: Database, host: str) -> None:
    with pytest.raises(StartupError, match="MILLRACE_INSECURE=1"):
        async with running(Toy().definition, Settings(jobs_port=0, host=host), database):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
async def test_loopback_hosts_need_no_request(database: Database, host: str) -> None:
    async with (
        running(Toy().definition, Settings(jobs_port=0, host=host), database) as service,
        calling(service) as caller,
    ):
        assert await caller.get() == "acme"


async def test_on_request_it_listens_everywhere_and_names_itself_to_others(database: Database) -> None:
    toy = Toy()
    settings = Settings(jobs_port=0, host="0.0.0.0", insecure=True, advertised_host="jobs.example.org")  # noqa: S104
    async with running(toy.definition, settings, database) as service, calling(service) as caller:
        assert await caller.get() == "acme"
        host, _, port = service.address.rpartition(":")
    assert host == "127.0.0.1"
    assert toy.events[1] == f"started at jobs.example.org:{port}"


async def test_a_message_that_is_too_large_is_refused(database: Database) -> None:
    settings = Settings(jobs_port=0, max_message_bytes=8192)
    async with (
        running(Toy().definition, settings, database) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        files = files_service_pb2_grpc.FilesServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await files.GetFile(files_service_pb2.GetFileRequest(org_id="x" * 9000))
    assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_call_knows_its_caller(database: Database) -> None:
    seen = []

    async def look() -> None:
        seen.append(current_caller())

    async with (
        running(Toy(get_file=look).definition, SETTINGS, database) as service,
        calling(service) as caller,
    ):
        await caller.get()
    assert seen[0].subject == "anonymous"
    seen[0].require_organisation("acme")


async def test_tools_can_ask_for_the_contract(database: Database) -> None:
    buf = Path(sys.executable).with_name("buf")
    async with running(Toy().definition, SETTINGS, database) as service:
        process = await asyncio.create_subprocess_exec(
            *(buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", '{"org_id": "acme"}'),
            f"http://{service.address}/{SERVICE}/GetFile",
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "HOME": os.environ.get("HOME", "/")},
        )
        output, _ = await process.communicate()
    assert json.loads(output) == {"file": {"orgId": "acme"}}
