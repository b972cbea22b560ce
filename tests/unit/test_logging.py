"""Each case runs in a process of its own, as logging is set up once in a process."""

import json
import os
import subprocess
import sys

SETUP = """
import asyncio, logging, sys, warnings
import structlog
from millrace_runtime.logging import configure_logging
from millrace_runtime.settings import Settings
configure_logging(Settings(), service="jobs")
log = structlog.get_logger()
"""


def _logged(code: str, **settings: str) -> list[str]:
    """The lines on standard error; nothing may be on standard output."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_events_are_json_lines_with_time_level_service_and_context() -> None:
    (line,) = _logged(
        "structlog.contextvars.bind_contextvars(org_id='acme', job_id='job_1')\nlog.info('hello', count=3)"
    )
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "hello",
        "count": 3,
        "level": "info",
        "service": "jobs",
        "org_id": "acme",
        "job_id": "job_1",
    }


def test_events_of_libraries_come_once_and_in_the_same_form() -> None:
    lines = _logged(
        "structlog.contextvars.bind_contextvars(org_id='acme')\n"
        "logging.getLogger('some.library').warning('careful %s', 'now', extra={'n': 1})\n"
        "warnings.warn('old', DeprecationWarning)"
    )
    first, second = map(json.loads, lines)
    assert (first["event"], first["logger"], first["n"]) == ("careful now", "some.library", 1)
    assert (first["service"], first["org_id"]) == ("jobs", "acme")
    assert "DeprecationWarning: old" in second["event"]


def test_a_client_that_has_gone_is_no_error() -> None:
    lines = _logged(
        "grpc = logging.getLogger('grpc._cython.cygrpc')\n"
        "grpc.error('ExecuteBatchError raised in core by servicer method [%s]', '/millrace/Get')\n"
        "grpc.error('Unexpected [%s] raised by servicer method [%s]', 'ValueError', '/millrace/Get')"
    )
    assert [json.loads(line)["event"] for line in lines] == [
        "Unexpected [ValueError] raised by servicer method [/millrace/Get]"
    ]


def test_an_exception_is_one_line_with_its_traceback() -> None:
    code = "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('broken')\n    logging.exception('too')"
    for line in _logged(code):
        assert "ZeroDivisionError: division by zero" in json.loads(line)["exception"]


def test_the_level_holds_for_all() -> None:
    code = "log.info('a'); log.warning('b'); logging.info('c'); logging.warning('d')"
    events = [json.loads(line)["event"] for line in _logged(code, MILLRACE_LOG_LEVEL="WARNING")]
    assert events == ["b", "d"]


def test_text_is_for_people() -> None:
    (line,) = _logged("log.info('hello', count=3)", MILLRACE_LOG_FORMAT="text")
    assert "hello" in line
    assert "count=3" in line
    assert not line.startswith("{")


def test_any_value_can_be_logged() -> None:
    code = "log.info('a', big=2**70, odd=object(), bad='\\ud800', keys={1: 2}, path=sys)"
    (line,) = _logged(code)
    assert json.loads(line)["big"] == 2**70


def test_a_reader_that_is_gone_does_not_stop_the_work() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "log.info('lost')\nlogging.warning('lost')\nsys.stdout.write('went on')"
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-c", SETUP + code], check=False, stdout=subprocess.PIPE, stderr=closed
        )
    assert done.stdout == b"went on"
