import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format

from millrace.scheduler.v1 import schedule_pb2
from millrace_runtime.errors import InvalidArgument
from millrace_runtime.text_templates import render_template, unknown_variables_of
from millrace_runtime.validation import Violations
from millrace_scheduler.delivery_messages import check_delivery, delivery_to_message

SECRET = "whsec_" + base64.b64encode(bytes(24)).decode()
URL = "https://example.com/hooks/1?a=b"


def _message(**fields: Any) -> schedule_pb2.Delivery:
    return json_format.ParseDict(fields, schedule_pb2.Delivery())


def _webhook(url: str = URL, secret: str = SECRET) -> schedule_pb2.Delivery:
    return _message(webhook={"url": url, "secret": secret})


def _email(**fields: Any) -> schedule_pb2.Delivery:
    return _message(email={"to": ["ann@example.com"], **fields})


def _problems(message: schedule_pb2.Delivery, **options: Any) -> list[str]:
    """The fields that are wrong."""
    violations = Violations()
    check_delivery(message, violations, **options)
    if not violations:
        return []
    with pytest.raises(InvalidArgument) as raised:
        violations.raise_if_any()
    return [violation.field for violation in raised.value.violations]


@pytest.mark.parametrize(
    "message",
    [
        _message(download={}),
        _webhook(),
        _email(subject="{{schedule_name}}", body="{{ job_id }}\n{{error}}", attach=True),
        _message(storage={"path": "reports/{{scheduled_date}}/{{file_name}}"}),
    ],
)
def test_what_is_right_is_stored_whole(message: schedule_pb2.Delivery) -> None:
    violations = Violations()
    text = check_delivery(message, violations)
    violations.raise_if_any()
    assert text is not None
    assert json_format.Parse(text, schedule_pb2.Delivery()) == message
    shown = delivery_to_message(text)
    assert SECRET not in str(shown)
    message.webhook.ClearField("secret")
    assert shown.on_failure == message.on_failure


def test_an_empty_message_is_none() -> None:
    assert check_delivery(schedule_pb2.Delivery(), Violations()) is None


def test_a_delivery_needs_a_method() -> None:
    assert _problems(_message(on_failure=True)) == ["delivery"]


@pytest.mark.parametrize("fields", [{"download": {}}, {"storage": {"path": "a/b"}}])
def test_what_has_nothing_of_failures(fields: dict[str, Any]) -> None:
    assert _problems(_message(**fields, on_failure=True)) == ["delivery.on_failure"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://example.com/",
        "ftp://example.com/",
        "example.com/hook",
        "https://",
        "https:///x",
        "https://user:pass@example.com/",
        "https://example.com/#part",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://[::1/",
        "https://exa mple.com/",
        "https://example.com/\r\nX: y",
        "https://example.com\\@127.0.0.1/",
        "https://127.0.0.1/",
        "https://10.0.0.1:8443/",
        "https://[fd00::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://localhost/",
        "https://api.LOCALHOST./",
        "https://2130706433/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://0/",
        "https://0x7f000001/",
        "https://example.com/" + "x" * 2_000,
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    assert _problems(_webhook(url)) == ["delivery.webhook.url"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/", "http://localhost/", "https://10.0.0.1/"])
def test_urls_that_operators_may_allow(url: str) -> None:
    assert _problems(_webhook(url), allow_private=True) == []


def test_an_address_in_another_spelling_is_refused_even_then() -> None:
    assert _problems(_webhook("http://127.1/"), allow_private=True) == ["delivery.webhook.url"]


@pytest.mark.parametrize(
    "secret",
    [
        "",
        SECRET.removeprefix("whsec_"),
        "whsec_",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        SECRET + "!",
        SECRET + "é",
        SECRET[:-2],
        "whsec_" + "A" * 1_000,
    ],
)
def test_secrets_that_are_refused(secret: str) -> None:
    assert _problems(_webhook(secret=secret)) == ["delivery.webhook.secret"]


def test_the_longest_secret_is_taken() -> None:
    assert _problems(_webhook(secret="whsec_" + base64.b64encode(bytes(64)).decode())) == []


def test_a_webhook_keeps_its_secret_while_its_url_stays() -> None:
    stored = check_delivery(_webhook(), Violations())
    kept = check_delivery(_webhook(secret=""), Violations(), stored=stored)
    assert kept is not None
    assert json.loads(kept)["webhook"]["secret"] == SECRET
    elsewhere = _webhook("https://evil.example/", secret="")
    assert _problems(elsewhere, stored=stored) == ["delivery.webhook.secret"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"to": []}, "delivery.email.to"),
        ({"to": [f"{n}@example.com" for n in range(21)]}, "delivery.email.to"),
        ({"to": ["a@b.com", "a@b.com"]}, "delivery.email.to[1]"),
        ({"subject": "x" * 201}, "delivery.email.subject"),
        ({"subject": "a\r\nBcc: b@c"}, "delivery.email.subject"),
        ({"subject": "{{nothing}}"}, "delivery.email.subject"),
        ({"body": "x" * 10_001}, "delivery.email.body"),
        ({"body": "{{Status}}"}, "delivery.email.body"),
        ({"body": "{{scheduled_date}}"}, "delivery.email.body"),
    ],
)
def test_emails_that_are_refused(fields: dict[str, Any], problem: str) -> None:
    assert _problems(_email(**fields)) == [problem]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ann",
        "ann@",
        "@b.com",
        "a b@c.com",
        "a@b@c.com",
        "Ann <a@b.com>",
        "a@b.com\n",
        "a@-é.com",
        # Encoded words, which mail programs would decode: to a line break, and to another address.
        "=?utf-8?q?a=0D=0ABcc=3Aeve=40evil.test?=@b.com",
        "=?utf-8?b?YQ==?=@b.com",
    ],
)
def test_addresses_that_are_refused(address: str) -> None:
    assert _problems(_email(to=[address])) == ["delivery.email.to[0]"]


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "../a", "a/./b", "a/ /b", "a\\b", "a\nb", "{{status}}", "x" * 501],
)
def test_paths_that_are_refused(path: str) -> None:
    assert _problems(_message(storage={"path": path})) == ["delivery.storage.path"]


def test_a_stored_delivery_that_cannot_be_read_does_not_show_its_secret() -> None:
    with pytest.raises(ValueError, match="cannot be read") as raised:
        delivery_to_message(json.dumps({"webhook": {"url": 7, "secret": SECRET}}))
    assert SECRET not in str(raised.value)


def test_a_delivery_of_a_later_version_is_shown_as_far_as_it_is_known() -> None:
    text = json.dumps({"pigeon": {"name": "Otto"}, "on_failure": True})
    assert delivery_to_message(text) == _message(on_failure=True)


def test_a_text_of_nothing_but_braces_is_read_once() -> None:
    text = "{" * 200_000
    assert unknown_variables_of(text, ()) == []
    assert render_template(text, {}) == text


def test_values_of_variables_are_not_looked_at() -> None:
    assert render_template("{{a}}{{ b }}{{c}}", {"a": "{{b}}", "b": "\\1"}) == "{{b}}\\1"
