import socket
import threading
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword

from millrace_database.database import Database
from millrace_worker import JobError
from millrace_worker.delivery_settings import DeliverySettings, MailServer
from millrace_worker.handlers.email_message import MAX_ATTACHED_BYTES, compose
from support.deliveries import MADE, SCHEDULED_TIME, end_job
from support.handler_runs import HandlerRuns, call
from support.local_files import local_files
from support.mail import Mailbox, mail_server
from support.tls import certificate_file, server_context

TYPE = "deliveries:email"
_PASSWORD = "a-long-passphrase"  # noqa: S105


def _settings(port: int, **more: Any) -> DeliverySettings:
    server = MailServer("127.0.0.1", port, sender="Millrace <reports@acme.test>", tls="none", **more)
    return DeliverySettings(server, download_link="https://files.test/{org_id}/{file_id}")


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
async def runs(database: Database, tmp_path: Path, mailbox: Mailbox) -> AsyncIterator[HandlerRuns]:
    files = local_files(database, tmp_path)
    async with mail_server(mailbox) as port:
        yield HandlerRuns(database, files, delivery=_settings(port))


async def _ended(
    runs: HandlerRuns, output: Any = None, error: Any = None, name: str = "Sales", **said: Any
) -> str:
    delivery = {"email": {"to": ["ann@acme.test", "bob@acme.test"], **said}, "on_failure": True}
    async with runs.database.transaction() as conn:
        return await end_job(conn, delivery, output, error=error, name=name)


async def _refused(runs: HandlerRuns) -> JobError:
    with pytest.raises(JobError) as raised:
        await call(await runs.claimed(TYPE))
    return raised.value


def _text(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


async def test_without_a_text_a_few_plain_lines_are_sent(runs: HandlerRuns, mailbox: Mailbox) -> None:
    file_id = await runs.upload(b"a;b\n", "sales.csv")
    job_id = await _ended(runs, {"file_id": file_id})
    context = await runs.claimed(TYPE)
    output = await call(context)
    assert (output.recipients, output.attached, output.refused) == (2, False, [])

    message = mailbox.message()
    assert mailbox.envelopes[0].rcpt_tos == ["ann@acme.test", "bob@acme.test"]
    assert mailbox.envelopes[0].mail_from == "reports@acme.test"
    assert (message["Subject"], message["To"]) == ("Sales: completed", "ann@acme.test, bob@acme.test")
    assert message["Message-ID"] == f"<{context.job_id}@acme.test>"
    assert _text(message) == (
        f"Schedule: Sales\nJob: {job_id} ({MADE})\nScheduled: {SCHEDULED_TIME}\nStatus: completed\n"
        f"File: sales.csv\n\nsales.csv: https://files.test/acme/{file_id}\n"
    )


async def test_variables_are_replaced_once(runs: HandlerRuns, mailbox: Mailbox) -> None:
    await _ended(
        runs,
        error=("DISK_FULL", "No {{link}} — größer"),
        name="Sales\r\nBcc: eve@evil.test",
        subject="{{schedule_name}} {{ status }}",
        body="{{type}} at {{scheduled_time}}: {{error}}|{{file_name}}|{{link}}",
    )
    await call(await runs.claimed(TYPE))
    message = mailbox.message()
    assert message["Subject"] == "Sales Bcc: eve@evil.test failed"
    assert message["Bcc"] is None
    assert _text(message).rstrip() == f"{MADE} at {SCHEDULED_TIME}: DISK_FULL: No {{{{link}}}} — größer||"


async def test_a_file_is_attached_if_asked_for(runs: HandlerRuns, mailbox: Mailbox) -> None:
    content = bytes(range(256)) * 100
    file_id = await runs.upload(content, "größe\n.pdf", content_type="application/pdf")
    await _ended(runs, {"file_id": file_id}, attach=True, body="See {{file_name}}")
    assert (await call(await runs.claimed(TYPE))).attached
    [attachment] = mailbox.message().iter_attachments()
    assert attachment.get_content() == content
    assert (attachment.get_filename(), attachment.get_content_type()) == ("größe .pdf", "application/pdf")
    assert _text(mailbox.message()).rstrip() == "See größe\n.pdf"


async def test_there_is_a_link_to_a_file_that_is_too_large(runs: HandlerRuns, mailbox: Mailbox) -> None:
    file_id = await runs.upload(bytes(MAX_ATTACHED_BYTES + 1), "large.bin")
    await _ended(runs, {"file_id": file_id}, attach=True, body="Here you are.")
    assert not (await call(await runs.claimed(TYPE))).attached
    assert not list(mailbox.message().iter_attachments())
    assert _text(mailbox.message()) == (f"Here you are.\n\nlarge.bin: https://files.test/acme/{file_id}\n")


async def test_a_large_file_is_encoded_beside_the_event_loop(
    runs: HandlerRuns, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def composed(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return compose(*arguments, **options)

    monkeypatch.setattr("millrace_worker.handlers.deliver_email.compose", composed)
    await _ended(runs, {"file_id": await runs.upload(bytes(100_000), "a.bin")}, attach=True)
    await call(await runs.claimed(TYPE))
    assert mailbox.envelopes
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("answer", "code", "retryable"),
    [
        ("554 No spam here", "MAIL_REFUSED", False),
        ("451 Try again later", "MAIL_FAILED", True),
    ],
)
async def test_what_the_server_answers_says_whether_it_is_tried_again(
    runs: HandlerRuns, mailbox: Mailbox, answer: str, code: str, retryable: bool
) -> None:
    mailbox.answer = answer
    await _ended(runs)
    error = await _refused(runs)
    assert (error.code, error.retryable, answer in error.message) == (code, retryable, True)


async def test_the_server_may_refuse_some_of_the_addresses(runs: HandlerRuns, mailbox: Mailbox) -> None:
    mailbox.refusals = {"bob@acme.test": "550 Who is that?"}
    await _ended(runs)
    output = await call(await runs.claimed(TYPE))
    assert (output.recipients, output.refused) == (1, ["bob@acme.test"])


@pytest.mark.parametrize(("other", "retryable"), [("550 Who is that?", False), ("450 Busy", True)])
async def test_when_all_are_refused_it_is_tried_again_if_one_may_be_taken_later(
    runs: HandlerRuns, mailbox: Mailbox, other: str, retryable: bool
) -> None:
    mailbox.refusals = {"ann@acme.test": "550 Who is that?", "bob@acme.test": other}
    await _ended(runs)
    assert (await _refused(runs)).retryable is retryable


async def test_a_server_that_is_away_is_tried_again(runs: HandlerRuns) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        runs.delivery = _settings(nobody.getsockname()[1])
        await _ended(runs)
        error = await _refused(runs)
    assert (error.code, error.retryable) == ("MAIL_FAILED", True)


async def test_without_a_mail_server_it_fails_for_good(runs: HandlerRuns) -> None:
    runs.delivery = DeliverySettings()
    await _ended(runs)
    error = await _refused(runs)
    assert (error.code, error.retryable) == ("NO_MAIL_SERVER", False)
    assert "MILLRACE_SMTP_HOST" in error.message


@pytest.mark.filterwarnings("ignore:Requir")
@pytest.mark.parametrize("password", [_PASSWORD, "wrong"])
async def test_the_worker_logs_in(runs: HandlerRuns, password: str) -> None:
    def check(
        _server: object, _session: object, _envelope: object, _mechanism: object, data: LoginPassword
    ) -> AuthResult:
        is_right = data.login == b"mill" and data.password == _PASSWORD.encode()
        return AuthResult(success=is_right, handled=False)

    await _ended(runs)
    mailbox = Mailbox()
    async with mail_server(mailbox, authenticator=check, auth_require_tls=False, auth_required=True) as port:
        runs.delivery = _settings(port, username="mill", password=password)
        if password == _PASSWORD:
            await call(await runs.claimed(TYPE))
        else:
            error = await _refused(runs)
            assert (error.retryable, password in error.message) == (False, False)
    assert len(mailbox.envelopes) == (1 if password == _PASSWORD else 0)


async def test_a_server_without_encryption_gets_no_mail_when_that_is_asked_for(
    runs: HandlerRuns, mailbox: Mailbox
) -> None:
    server = runs.delivery.mail_server
    assert server is not None
    runs.delivery = DeliverySettings(MailServer(server.host, server.port))
    await _ended(runs)
    await _refused(runs)
    assert mailbox.envelopes == []


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize("tls", ["tls", "starttls"])
async def test_mail_goes_to_servers_with_a_valid_certificate_only(
    runs: HandlerRuns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tls: Literal["tls", "starttls"],
    is_trusted: bool,
) -> None:
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate_file(tmp_path)))
    context = server_context(tmp_path)
    mailbox = Mailbox()
    serving = (
        mail_server(mailbox, tls=context)
        if tls == "tls"
        else mail_server(mailbox, tls_context=context, require_starttls=True)
    )
    await _ended(runs)
    async with serving as port:
        runs.delivery = DeliverySettings(MailServer("localhost", port, tls=tls))
        if is_trusted:
            await call(await runs.claimed(TYPE))
        else:
            error = await _refused(runs)
            assert (error.code, error.retryable) == ("MAIL_FAILED", True)
    assert len(mailbox.envelopes) == int(is_trusted)
