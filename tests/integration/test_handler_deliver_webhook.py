import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from millrace_database.database import Database
from millrace_database.ids import format_id, parse_id
from millrace_database.job_control import retry_job
from millrace_database.job_lifecycle import claim_jobs, complete_jobs
from millrace_worker import Backoff, JobError
from millrace_worker.delivery_settings import DeliverySettings
from millrace_worker.handlers import webhook_sending
from millrace_worker.registry import load_handlers
from support.deliveries import (
    MADE,
    SCHEDULED_TIME,
    SECRET,
    WebhookServer,
    end_job,
    expected_signature,
    webhook_server,
)
from support.handler_runs import HandlerRuns, call
from support.local_files import local_files
from support.queue_samples import new_worker
from support.tls import server_context
from support.worker_runs import fetch, finished, worker

TYPE = "deliveries:webhook"
_PRIVATE = DeliverySettings(allow_private=True, download_link="https://files.test/{org_id}/{file_id}")


@pytest.fixture
def runs(database: Database, tmp_path: Path) -> HandlerRuns:
    files = local_files(database, tmp_path)
    return HandlerRuns(database, files, delivery=_PRIVATE)


@pytest.fixture
async def server() -> AsyncIterator[WebhookServer]:
    async with webhook_server() as running:
        yield running


def _webhook(url: str, secret: str = SECRET, **more: Any) -> dict[str, Any]:
    return {"webhook": {"url": url, "secret": secret}, **more}


async def _ended(runs: HandlerRuns, url: str, output: Any = None, **more: Any) -> str:
    async with runs.database.transaction() as conn:
        return await end_job(conn, _webhook(url, on_failure=True), output, **more)


def _let_names_stand_for(monkeypatch: pytest.MonkeyPatch, port: int, *addresses: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: found)


async def _refused(runs: HandlerRuns) -> JobError:
    with pytest.raises(JobError) as raised:
        await call(await runs.claimed(TYPE))
    return raised.value


async def test_the_result_is_posted_and_signed(runs: HandlerRuns, server: WebhookServer) -> None:
    file_id = await runs.upload(b"a;b\n1;2\n", "sales.csv")
    job_id = await _ended(runs, server.url, {"file_id": file_id, "rows": 1})
    begin = int(time.time())
    context = await runs.claimed(TYPE)
    assert (await call(context)).status == 200

    [(headers, body)] = server.received
    payload = orjson.loads(body)
    completed_at = datetime.fromisoformat(payload.pop("timestamp"))
    assert datetime.now(UTC) - completed_at < timedelta(minutes=1)
    schedule_id = payload["data"].pop("schedule_id")
    assert re.fullmatch("schedule_[0-9a-f]{32}", schedule_id)
    assert payload == {
        "type": "job.completed",
        "data": {
            "org_id": "acme",
            "job_id": job_id,
            "type": MADE,
            "status": "completed",
            "output": {"file_id": file_id, "rows": 1},
            "error": None,
            "schedule_name": "Sales of the day",
            "scheduled_time": SCHEDULED_TIME,
            "file": {
                "file_id": file_id,
                "name": "sales.csv",
                "content_type": "text/csv",
                "size_bytes": 8,
                "sha256": (await runs.record(file_id)).sha256,
                "link": f"https://files.test/acme/{file_id}",
            },
        },
    }
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == context.job_id
    assert begin <= int(headers["webhook-timestamp"]) <= time.time()
    assert headers["webhook-signature"] == expected_signature(headers, body)


@pytest.mark.parametrize(
    "value", [str(10**30), "1" + "0" * 400, "0.12345678901234567890", "[" * 300 + "]" * 300]
)
async def test_an_output_is_posted_as_it_is(runs: HandlerRuns, server: WebhookServer, value: str) -> None:
    await _ended(runs, server.url)
    async with runs.database.connection() as conn:
        await conn.execute(
            "UPDATE jobs SET output = $1::text::jsonb WHERE parent_job_id IS NULL", f'{{"value": {value}}}'
        )
    await call(await runs.claimed(TYPE))
    assert f'"output":{{"value": {value}}}'.encode() in server.received[0][1]


async def test_a_job_that_has_ended_again_is_delivered_once(runs: HandlerRuns, server: WebhookServer) -> None:
    job_id = await _ended(runs, server.url, error=("DISK_FULL", "No space left"))
    of_failure = await runs.claimed(TYPE)
    async with runs.database.transaction() as conn:
        await retry_job(conn, "acme", parse_id("job", job_id), 3)
        (job,) = await claim_jobs(conn, await new_worker(conn), {MADE: 1}, 1)
    async with runs.database.transaction() as conn:
        await complete_jobs(conn, [(job.lease, None)])
    with pytest.raises(JobError) as raised:
        await call(of_failure)
    assert (raised.value.code, raised.value.retryable) == ("RESULT_GONE", False)
    assert server.received == []
    await call(await runs.claimed(TYPE))
    assert [orjson.loads(body)["type"] for _, body in server.received] == ["job.completed"]


async def test_a_failure_is_posted_with_its_error(runs: HandlerRuns, server: WebhookServer) -> None:
    await _ended(runs, server.url, error=("DISK_FULL", "No space left"))
    await call(await runs.claimed(TYPE))
    payload = orjson.loads(server.received[0][1])
    assert payload["type"] == "job.failed"
    assert payload["data"]["error"] == {"code": "DISK_FULL", "message": "No space left"}
    assert (payload["data"]["output"], payload["data"]["file"]) == (None, None)


async def test_each_attempt_has_the_same_id(runs: HandlerRuns, server: WebhookServer) -> None:
    await _ended(runs, server.url)
    server.answers = [(500, {})]
    context = await runs.claimed(TYPE)
    with pytest.raises(JobError) as raised:
        await call(context)
    assert raised.value.retryable
    await call(await runs.claimed_again(context))
    first, second = server.received
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    assert first[1] == second[1]


@pytest.mark.parametrize(
    ("answer", "retryable", "retry_after"),
    [
        ((500, {}), True, None),
        ((503, {"Retry-After": "120"}), True, 120),
        ((429, {"Retry-After": "99999999"}), True, 86_400),
        ((503, {"Retry-After": "0"}), True, None),
        ((429, {"Retry-After": "1"}), True, None),
        ((429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), True, None),
        ((408, {}), True, None),
        ((425, {}), True, None),
        ((400, {"Retry-After": "5"}), False, None),
        ((404, {}), False, None),
        ((410, {}), False, None),
        ((302, {"Location": "/elsewhere"}), False, None),
    ],
)
async def test_other_answers_than_success(
    runs: HandlerRuns,
    server: WebhookServer,
    answer: tuple[int, dict[str, str]],
    retryable: bool,
    retry_after: int | None,
) -> None:
    await _ended(runs, server.url)
    server.answers = [answer]
    error = await _refused(runs)
    assert (error.retryable, str(answer[0]) in error.message) == (retryable, True)
    assert error.retry_after == (None if retry_after is None else timedelta(seconds=retry_after))
    assert len(server.received) == 1


async def test_a_server_that_is_away_is_tried_again(runs: HandlerRuns) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        await _ended(runs, f"http://127.0.0.1:{nobody.getsockname()[1]}/key-in-path")
        error = await _refused(runs)
    assert (error.code, error.retryable) == ("WEBHOOK_UNREACHABLE", True)
    assert "key-in-path" not in error.message


async def test_nothing_is_sent_to_a_server_without_a_valid_certificate(
    runs: HandlerRuns, tmp_path: Path
) -> None:
    received = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0, ssl=server_context(tmp_path)) as listening:
        await _ended(runs, f"https://localhost:{listening.sockets[0].getsockname()[1]}/key-in-path")
        error = await _refused(runs)
    assert (error.code, error.retryable) == ("WEBHOOK_UNREACHABLE", True)
    assert error.message == "the certificate of localhost is not valid"
    assert not any(received)


async def test_an_answer_that_is_no_http_is_tried_again(runs: HandlerRuns) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listening:
        await _ended(runs, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
        assert (await _refused(runs)).retryable


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "[::ffff:127.0.0.1]"])
async def test_private_addresses_are_refused(runs: HandlerRuns, server: WebhookServer, host: str) -> None:
    runs.delivery = DeliverySettings()
    await _ended(runs, server.url.replace("127.0.0.1", host).replace("http:", "https:"))
    error = await _refused(runs)
    assert (error.code in ("PRIVATE_ADDRESS", "DELIVERY_UNUSABLE"), error.retryable) == (True, False)
    assert server.received == []


async def test_nothing_is_sent_without_encryption_unless_operators_allow_it(
    runs: HandlerRuns, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sending, "is_public_address", lambda _address: True)
    await _ended(runs, server.url)
    runs.delivery = DeliverySettings()
    error = await _refused(runs)
    assert (error.code, error.retryable) == ("DELIVERY_UNUSABLE", False)
    assert server.received == []


async def test_a_name_is_judged_by_what_it_resolves_to(
    runs: HandlerRuns, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(server.url.split(":")[2].split("/")[0])

    await _ended(runs, f"https://hooks.example.com:{port}/")
    _let_names_stand_for(monkeypatch, port, "127.0.0.1")
    runs.delivery = DeliverySettings()
    error = await _refused(runs)
    assert (error.code, error.retryable) == ("PRIVATE_ADDRESS", False)
    # What a name stands for inside is not for everybody to know.
    assert error.message == "hooks.example.com is no public address"
    assert server.received == []


async def test_a_name_server_that_does_not_answer_holds_up_no_files(
    runs: HandlerRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    asked = threading.Semaphore(0)

    def look_up(*_arguments: Any, **_options: Any) -> Any:
        asked.release()
        answers.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    sendings = [
        asyncio.create_task(webhook_sending.post(f"http://{n}.example.com/", b"", {}, allow_private=False))
        for n in range(40)
    ]
    try:
        while not asked.acquire(blocking=False):
            await asyncio.sleep(0)
        file_id = await runs.upload(b"a;b", "sales.csv")
        assert await runs.content(file_id) == b"a;b"
        assert not any(sending.done() for sending in sendings)
    finally:
        answers.set()
    errors = await asyncio.gather(*sendings, return_exceptions=True)
    assert {str(error).partition(".")[2] for error in errors} == {"example.com cannot be resolved"}


@pytest.mark.parametrize("host", ["127.1", "2130706433"])
async def test_a_host_that_cannot_be_looked_up_fails_for_good(runs: HandlerRuns, host: str) -> None:
    runs.delivery = DeliverySettings()
    await _ended(runs, f"https://{host}/key-in-path")
    error = await _refused(runs)
    assert (error.code, error.retryable) == ("DELIVERY_UNUSABLE", False)
    assert error.message == "the URL of the webhook names no host that can be looked up"


async def test_a_public_address_that_is_away_is_tried_again_though_another_is_private(
    runs: HandlerRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sending, "is_public_address", lambda address: address == "127.0.0.2")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.2", 0))
        port = nobody.getsockname()[1]

        await _ended(runs, f"https://hooks.example.com:{port}/")
        _let_names_stand_for(monkeypatch, port, "127.0.0.1", "127.0.0.2")
        runs.delivery = DeliverySettings()
        error = await _refused(runs)
    assert (error.code, error.retryable) == ("WEBHOOK_UNREACHABLE", True)


async def test_a_delivery_that_the_schedule_does_not_ask_for_any_more_fails_for_good(
    runs: HandlerRuns, server: WebhookServer
) -> None:
    await _ended(runs, server.url)
    async with runs.database.connection() as conn:
        await conn.execute("""UPDATE scheduled_jobs SET delivery = '{"download": {}}'""")
    error = await _refused(runs)
    assert (error.code, error.retryable) == ("DELIVERY_CHANGED", False)


async def test_a_job_of_another_organisation_is_not_delivered(
    runs: HandlerRuns, server: WebhookServer
) -> None:
    async with runs.database.transaction() as conn:
        job_id = await end_job(conn, _webhook(server.url))
        await conn.execute("UPDATE jobs SET org_id = 'umbrella' WHERE parent_job_id IS NULL")
    with pytest.raises(JobError) as raised:
        await runs.run(TYPE, {"job_id": job_id})
    assert raised.value.code == "RESULT_GONE"
    assert server.received == []


async def test_a_worker_tries_again_and_its_secret_is_nowhere(
    database: Database,
    server: WebhookServer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "delay", lambda _self, _attempt: timedelta())
    secret = SECRET.removeprefix("whsec_")
    server.answers = [(500, {}), (503, {"Retry-After": "0"}), (200, {})]
    async with database.transaction() as conn:
        delivered = await end_job(conn, _webhook(server.url))
        unusable = await end_job(conn, _webhook(server.url, f"whsec_!{secret}"))
    async with worker(
        database,
        load_handlers(["millrace_worker.handlers"]),
        tmp_path,
        webhook_allow_private=True,
        log_level="DEBUG",
    ):
        rows = await fetch(database, "SELECT job_id, parent_job_id FROM jobs WHERE parent_job_id IS NOT NULL")
        jobs = {
            format_id("job", row["parent_job_id"]): await finished(database, row["job_id"]) for row in rows
        }
    assert (jobs[delivered].status, jobs[delivered].attempt) == ("completed", 3)
    assert (jobs[unusable].status, jobs[unusable].error_code) == ("failed", "DELIVERY_UNUSABLE")
    assert {headers["webhook-id"] for headers, _ in server.received} == {
        format_id("job", row["job_id"]) for row in rows if row["parent_job_id"] == parse_id("job", delivered)
    }
    texts = await fetch(
        database, "SELECT jobs::text FROM jobs UNION ALL SELECT job_attempts::text FROM job_attempts"
    )
    output = capfd.readouterr()
    assert not [text for text in [*(row[0] for row in texts), output.out, output.err] if secret in text]
