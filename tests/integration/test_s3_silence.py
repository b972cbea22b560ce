"""A server that takes requests and does not answer is noticed once, for all; one that only takes its time is waited for."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from millrace_database.database import Database
from millrace_storage import FileStore
from millrace_storage.object_store import Remains, StoreUnavailableError, WriteState
from millrace_storage.s3_client import S3Configuration
from millrace_storage.s3_object_store import S3ObjectStore
from millrace_storage.s3_silence import SilenceTimes
from support.direct_uploads import CONTENT, initiate, send
from support.object_stores import chunks_of, keys, put, read
from support.polling import eventually
from support.s3_disturbances import LONG, Silence, is_operation
from support.s3_server import S3Bucket
from support.stored_files import StoresOf

KEY = "org-acme/4f/object"
QUESTION = ("HEAD", "/")
NEVER = 3600.0
SILENT = "the object store has not answered for"
# A busy machine takes its time, too: servers that live are asked with more patience.
FAST = SilenceTimes(patience_seconds=0.2, question_seconds=0.2, pause_seconds=NEVER)
PATIENT = SilenceTimes(patience_seconds=0.2, question_seconds=20.0, pause_seconds=NEVER)


@pytest.fixture
async def silence(s3_bucket: S3Bucket) -> AsyncIterator[Silence]:
    """The server's, until it ends."""
    silence = Silence()
    s3_bucket.proxy.always.append(silence)
    yield silence
    silence.drop()


@asynccontextmanager
async def watched(
    bucket: S3Bucket, times: SilenceTimes = FAST, **settings: float
) -> AsyncIterator[S3ObjectStore]:
    """Gives a store that looks out for silence."""
    configuration = replace(bucket.through_proxy, read_seconds=NEVER, silence=times, **settings)  # type: ignore[arg-type]
    async with bucket.store_with(configuration) as store:
        bucket.proxy.requests.clear()
        yield store


@pytest.mark.usefixtures("silence")
async def test_a_silent_server_is_asked_once_more_and_then_no_more(s3_bucket: S3Bucket) -> None:
    async with watched(s3_bucket) as store:
        for _ in range(10):
            with pytest.raises(StoreUnavailableError, match=SILENT):
                await store.head(KEY)
        state = WriteState()
        with pytest.raises(StoreUnavailableError, match=SILENT):
            await store.put(KEY, chunks_of(b"content"), state=state)
        assert state.remains is Remains.NOTHING
    assert s3_bucket.proxy.requests == [("HEAD", f"/{s3_bucket.name}/{KEY}"), QUESTION]


async def test_all_who_wait_are_told_together(s3_bucket: S3Bucket, silence: Silence) -> None:
    silence.of = lambda request: request.method != "GET"
    waiting: list[Callable[[S3ObjectStore], object]] = [
        lambda store: store.head(KEY),
        lambda store: put(store, "short"),
        lambda store: put(store, "long", LONG),
        lambda store: store.delete(KEY),
        lambda store: store.delete_many([KEY]),
        lambda store: store.move(KEY, "another"),
    ]
    async with watched(s3_bucket) as store:
        told = await asyncio.gather(*(call(store) for call in waiting), return_exceptions=True)  # type: ignore[call-overload]
    assert all(isinstance(error, StoreUnavailableError) and SILENT in str(error) for error in told), told
    assert s3_bucket.proxy.requests.count(QUESTION) == 1
    # Nothing was asked twice, neither by the client nor to take something back.
    assert len(s3_bucket.proxy.requests) == len(set(s3_bucket.proxy.requests))


async def test_a_server_that_answers_again_is_used_again(
    s3_bucket: S3Bucket, silence: Silence, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "millrace_storage")
    await put(s3_bucket.store(), KEY, b"content")
    async with watched(s3_bucket, replace(FAST, question_seconds=0.5, pause_seconds=0.0)) as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match=SILENT):
                await read(store, KEY)
        silence.end()

        async def is_read() -> bool:
            try:
                return await read(store, KEY) == b"content"
            except StoreUnavailableError:
                return False

        await eventually(is_read)
        assert await keys(store) == [KEY]
    told = [record.message for record in caplog.records if record.name.endswith("s3_silence")]
    assert [("silent" in message, "answers again" in message) for message in told[:2]] == [
        (True, False),
        (False, True),
    ]


async def test_one_that_answers_nothing_but_questions_is_waited_for(
    s3_bucket: S3Bucket, silence: Silence
) -> None:
    silence.of = lambda request: request.method == "PUT"

    async def is_asked_often() -> bool:
        return s3_bucket.proxy.requests.count(QUESTION) >= 3

    # With one connection, others wait for it, which is no silence either.
    async with watched(s3_bucket, PATIENT, pool_size=1) as store, asyncio.TaskGroup() as tasks:
        tasks.create_task(put(store, KEY, b"content"))
        tasks.create_task(put(store, "another", b"content"))
        await eventually(is_asked_often)
        silence.end()
    assert await keys(s3_bucket.store()) == ["another", KEY]


async def test_a_question_that_is_answered_by_a_refusal_or_a_redirection_is_a_sign_of_life(
    s3_bucket: S3Bucket, silence: Silence
) -> None:
    answers = [
        web.Response(status=status, headers={"Location": "http://127.0.0.1:1/"}) for status in (403, 307, 500)
    ]

    async def answer(request: web.BaseRequest, _: bytes) -> web.Response | None:
        return answers.pop() if request.raw_path == "/" and answers else None

    s3_bucket.proxy.always.insert(0, answer)
    silence.of = lambda request: request.raw_path != "/"

    async def is_asked_often() -> bool:
        return not answers

    async with watched(s3_bucket, PATIENT) as store:
        asking = asyncio.create_task(store.head(KEY))
        await eventually(is_asked_often)
        silence.end()
        assert await asking is None


async def test_a_download_that_stops_in_the_middle_is_told(s3_bucket: S3Bucket, silence: Silence) -> None:
    silence.of = lambda request: request.raw_path == "/"
    await put(s3_bucket.store(), KEY, LONG)
    begun = asyncio.Event()
    end = asyncio.Event()

    async def stop(request: web.BaseRequest, _: bytes) -> web.StreamResponse | None:
        if request.method != "GET":
            return None
        response = web.StreamResponse(status=206, headers={"ETag": '"x"', "Content-Length": "262144"})
        await response.prepare(request)
        await response.write(b"beginning")
        begun.set()
        await end.wait()
        return response

    s3_bucket.proxy.always.insert(0, stop)
    async with watched(s3_bucket) as store:
        with pytest.raises(StoreUnavailableError, match=SILENT):
            await read(store, KEY)
        assert begun.is_set()
    end.set()


async def test_an_address_where_nobody_takes_connections_is_told(s3_bucket: S3Bucket) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with socket.create_connection(address), socket.socket() as second:
            # Whoever comes now is not heard, as by a network that swallows what it is sent.
            second.setblocking(False)
            second.connect_ex(address)
            nobody = S3Configuration(
                endpoint=f"http://127.0.0.1:{address[1]}",
                connect_seconds=0.2,
                silence=replace(FAST, patience_seconds=NEVER),
            )
            async with s3_bucket.store_with(nobody) as store:
                with pytest.raises(StoreUnavailableError, match=SILENT):
                    await store.head(KEY)


async def test_a_server_that_lives_and_takes_no_body_is_given_up(s3_bucket: S3Bucket) -> None:
    """As behind a proxy one of whose servers hangs."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if not request.startswith(b"PUT"):
            writer.write(b"HTTP/1.1 404 None\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        living = S3Configuration(endpoint=url, read_seconds=0.3, attempts=2, silence=PATIENT)
        async with s3_bucket.store_with(living) as store:
            with pytest.raises(StoreUnavailableError, match="ReadTimeout"):
                await put(store, KEY, b"content")


@pytest.mark.usefixtures("silence")
@pytest.mark.parametrize("content", [b"short", LONG], ids=["short", "long"])
async def test_a_cancelled_write_does_not_wait_for_a_silent_server(
    s3_bucket: S3Bucket, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace_storage.s3_writing._SETTLING_SECONDS", 0.1)
    begun = s3_bucket.proxy.requests

    async def has_begun() -> bool:
        return bool(begun)

    state = WriteState()
    async with watched(s3_bucket, replace(FAST, patience_seconds=NEVER)) as store:
        writing = asyncio.create_task(store.put(KEY, chunks_of(content), state=state))
        await eventually(has_begun)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        # Nobody can know what the server is going to do.
        assert state.remains is Remains.PERHAPS
        assert len(begun) == 1


async def test_a_part_on_its_way_is_not_waited_for(
    s3_bucket: S3Bucket, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace_storage.s3_write._TAKING_BACK_SECONDS", 0.1)
    silence.of = lambda request: is_operation("part")(request) or request.method == "DELETE"
    state = WriteState()

    async def is_on_its_way() -> bool:
        return any("partNumber" in path for _, path in s3_bucket.proxy.requests)

    async with watched(s3_bucket, replace(FAST, patience_seconds=NEVER)) as store:
        writing = asyncio.create_task(store.put(KEY, chunks_of(LONG), state=state))
        await eventually(is_on_its_way)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert state.remains is Remains.PERHAPS


async def test_a_cancelled_confirmation_does_not_wait_for_a_silent_server(
    database: Database, s3_bucket: S3Bucket, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace_storage.object_writing._SOON_SECONDS", 0.1)
    silence.of = lambda request: is_operation("copy")(request) or request.method == "HEAD"

    async def is_asked() -> bool:
        return any(method == "PUT" for method, _ in s3_bucket.proxy.requests)

    async with watched(s3_bucket, replace(FAST, patience_seconds=NEVER)) as store:
        files = FileStore(database, StoresOf(store))
        upload = await initiate(files)
        await send(files, database, upload)
        s3_bucket.proxy.requests.clear()
        confirming = asyncio.create_task(files.confirm_upload("acme", upload.upload_id))
        await eventually(is_asked)
        confirming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await confirming
        silence.end()
        file = await files.confirm_upload("acme", upload.upload_id)
    assert file.size_bytes == len(CONTENT)


async def test_a_request_that_outlives_its_store_opens_no_more_connections(
    s3_bucket: S3Bucket, silence: Silence
) -> None:
    async def is_asked() -> bool:
        return bool(s3_bucket.proxy.requests)

    async with watched(s3_bucket, replace(FAST, patience_seconds=NEVER)) as store:
        asking = asyncio.create_task(store.head(KEY))
        await eventually(is_asked)
    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(asking, 20)
    silence.end()
    assert len(s3_bucket.proxy.requests) == 1
