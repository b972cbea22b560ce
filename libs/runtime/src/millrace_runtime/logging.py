import json
import logging
import sys
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

from millrace_runtime.settings import Settings

# Says at each start what we say ourselves where it matters.
_CHATTY_LOGGER = "alembic"
# Logs an error with its traceback when a client has gone while it is answered, which the line of the call says as well.
_GRPC_LOGGER = "grpc._cython.cygrpc"
_CLIENT_GONE = "ExecuteBatchError raised in core by servicer method"


def configure_logging(settings: Settings, *, service: str) -> None:
    """Send all log events of this process to standard error, those of libraries included.

    One JSON object a line, or text for people, as `log_format` says. Each event has its time in UTC, its level and
    the service, and what is bound to the current context (`structlog.contextvars`), such as org_id and job_id.
    """
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level]
    shared = _shared_processors(service)
    rendering = _text_rendering() if as_text else _json_rendering()
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _LineWriter(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = _StandardErrorHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger(_CHATTY_LOGGER).setLevel(max(level, logging.WARNING))
    logging.getLogger(_GRPC_LOGGER).addFilter(lambda record: not str(record.msg).startswith(_CLIENT_GONE))
    logging.captureWarnings(capture=True)


class _LineWriter:
    """Writes lines to a stream. A stream that nobody reads any more must not end the work that logs to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError:
            pass

    debug = info = warning = error = critical = msg


class _StandardErrorHandler(logging.Handler):
    """Writes the events of the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        _LineWriter(sys.stderr).msg(self.format(record))


def _shared_processors(service: str) -> list[Processor]:
    def add_service(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        add_service,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _json_rendering() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]


def _text_rendering() -> list[Processor]:
    # Plain tracebacks: the colourful ones show local variables, which may hold what should not be in a log.
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _to_json(event: EventDict, **_options: Any) -> str:
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        # Integers beyond 64 bits and lone surrogates.
        return json.dumps(event, default=repr)
