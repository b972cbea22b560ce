"""The fields of a schedule that callers may set and change: every rule that each of them must keep."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import orjson
from google.protobuf.duration_pb2 import Duration

from millrace.scheduler.v1 import schedule_pb2, scheduler_service_pb2
from millrace_database.deliveries import DELIVERY_TYPES
from millrace_database.job_types_repository import JobTypeRecord
from millrace_runtime.input_schema import compile_schema, find_violations
from millrace_runtime.json_document import JsonDocument
from millrace_runtime.validation import Violations
from millrace_scheduler.delivery_messages import check_delivery
from millrace_scheduler.local_time import load_zone
from millrace_scheduler.recurrence import Recurrence
from millrace_scheduler.recurrence_messages import check_recurrence, recurrence_to_json
from millrace_scheduler.schedule_words import catch_up_policy_word, overlap_policy_word

Message: TypeAlias = scheduler_service_pb2.CreateScheduleRequest | schedule_pb2.Schedule
"""Both name their fields alike."""

_MAX_NAME_LENGTH = 200
_MAX_TYPE_LENGTH = 128
# A job may have 16 KiB; its scheduled time needs some of it.
_MAX_METADATA_BYTES = 16 * 1024 - 64
_LONGEST_JITTER = timedelta(hours=24)
_LONGEST_CATCH_UP = timedelta(days=30)
_SECOND = timedelta(seconds=1)
_MAX_FAILED_RUNS = 100


@dataclass(frozen=True, slots=True)
class FieldRules:
    """What the operator of the service allows."""

    max_input_bytes: int
    #: Whether webhooks may go to private addresses.
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class CheckedFields:
    """Fields as the database holds them, by the names of ScheduleValues, and as the code works with them.

    The latter are None when the field was not asked for, or is wrong.
    """

    values: dict[str, Any] = field(default_factory=dict)
    input: JsonDocument | None = None
    recurrence: Recurrence | None = None


def check_fields(
    message: Message,
    paths: Iterable[str],
    violations: Violations,
    rules: FieldRules,
    *,
    stored_delivery: str | None = None,
) -> CheckedFields:
    """Return what the fields of a message hold that `paths` (of CHANGEABLE) name; what is wrong is added to `violations`.

    `stored_delivery` is what is stored now, when it is to be changed.
    """
    fields = _Fields(message, violations, rules, stored_delivery)
    values: dict[str, Any] = {}
    for path in paths:
        values.update(_CHECKS[path](fields))
    return CheckedFields(values, fields.checked_input, fields.checked_recurrence)


class _Fields:
    """Checks fields of a message, one at a time."""

    def __init__(
        self, message: Message, violations: Violations, rules: FieldRules, stored_delivery: str | None
    ) -> None:
        self._message = message
        self._violations = violations
        self._rules = rules
        self._stored_delivery = stored_delivery
        self.checked_input: JsonDocument | None = None
        self.checked_recurrence: Recurrence | None = None

    def name(self) -> Mapping[str, Any]:
        return {"name": self._text("name", self._message.name, _MAX_NAME_LENGTH)}

    def type(self) -> Mapping[str, Any]:
        return {"type": self._text("type", self._message.type, _MAX_TYPE_LENGTH)}

    def _text(self, name: str, value: str, max_length: int) -> str:
        return self._violations.check_text(name, value, max_length=max_length, required=True)

    def input(self) -> Mapping[str, Any]:
        self.checked_input = self._violations.check_struct(
            "input", self._message.input, max_bytes=self._rules.max_input_bytes
        )
        return {"input_json": self.checked_input.text}

    def metadata(self) -> Mapping[str, Any]:
        document = self._violations.check_struct(
            "metadata", self._message.metadata, max_bytes=_MAX_METADATA_BYTES
        )
        return {"metadata_json": document.text}

    def recurrence(self) -> Mapping[str, Any]:
        self.checked_recurrence = check_recurrence(self._message.recurrence, self._violations)
        if self.checked_recurrence is None:
            return {"recurrence_json": ""}
        return {"recurrence_json": recurrence_to_json(self._message.recurrence)}

    def time_zone(self) -> Mapping[str, Any]:
        return {"time_zone": check_time_zone("time_zone", self._message.time_zone, self._violations).key}

    def start_at(self) -> Mapping[str, Any]:
        sent = self._message.HasField("start_at")
        return {
            "start_at": self._violations.check_timestamp("start_at", self._message.start_at) if sent else None
        }

    def end_at(self) -> Mapping[str, Any]:
        sent = self._message.HasField("end_at")
        return {"end_at": self._violations.check_timestamp("end_at", self._message.end_at) if sent else None}

    def jitter(self) -> Mapping[str, Any]:
        return {"jitter_seconds": self._seconds("jitter", self._message.jitter, timedelta(), _LONGEST_JITTER)}

    def overlap_policy(self) -> Mapping[str, Any]:
        number = self._message.overlap_policy
        return {"overlap_policy": self._word("overlap_policy", number, overlap_policy_word(number), "allow")}

    def catch_up_policy(self) -> Mapping[str, Any]:
        number = self._message.catch_up_policy
        word = self._word("catch_up_policy", number, catch_up_policy_word(number), "run_once")
        return {"catch_up_policy": word}

    def catch_up_window(self) -> Mapping[str, Any]:
        if not self._message.HasField("catch_up_window"):
            return {"catch_up_seconds": None}
        window = self._message.catch_up_window
        return {"catch_up_seconds": self._seconds("catch_up_window", window, _SECOND, _LONGEST_CATCH_UP)}

    def max_runs(self) -> Mapping[str, Any]:
        if self._message.max_runs < 0:
            self._violations.add("max_runs", "must not be negative")
        return {"max_runs": self._message.max_runs}

    def pause_after_failed_runs(self) -> Mapping[str, Any]:
        name, value = "pause_after_failed_runs", self._message.pause_after_failed_runs
        return {name: self._violations.check_range(name, value, 0, _MAX_FAILED_RUNS)}

    def delivery(self) -> Mapping[str, Any]:
        text = check_delivery(
            self._message.delivery,
            self._violations,
            allow_private=self._rules.allow_private,
            stored=self._stored_delivery,
        )
        return {"delivery_json": text}

    def _seconds(self, name: str, value: Duration, minimum: timedelta, maximum: timedelta) -> int:
        if value.nanos:
            self._violations.add(name, "must be in whole seconds")
            return 0
        return int(self._violations.check_duration(name, value, minimum, maximum).total_seconds())

    def _word(self, name: str, number: int, word: str | None, default: str) -> str:
        if word is None:
            self._violations.add(name, f"is {number}, which is no such policy")
            return default
        return word


_CHECKS: dict[str, Callable[[_Fields], Mapping[str, Any]]] = {
    "name": _Fields.name,
    "type": _Fields.type,
    "input": _Fields.input,
    "metadata": _Fields.metadata,
    "recurrence": _Fields.recurrence,
    "time_zone": _Fields.time_zone,
    "start_at": _Fields.start_at,
    "end_at": _Fields.end_at,
    "jitter": _Fields.jitter,
    "overlap_policy": _Fields.overlap_policy,
    "catch_up_policy": _Fields.catch_up_policy,
    "catch_up_window": _Fields.catch_up_window,
    "max_runs": _Fields.max_runs,
    "pause_after_failed_runs": _Fields.pause_after_failed_runs,
    "delivery": _Fields.delivery,
}

CHANGEABLE = tuple(_CHECKS)
"""The paths of all fields that a caller may set and change."""


def check_together(values: Mapping[str, Any], paths: Iterable[str], violations: Violations) -> None:
    """Add to `violations` what is wrong with fields beside each other, if one of `paths` is among them.

    `values` are all of the schedule, by the names of ScheduleValues.
    """
    changed = set(paths)
    start_at, end_at = values["start_at"], values["end_at"]
    if changed & {"start_at", "end_at"} and start_at is not None and end_at is not None and end_at < start_at:
        violations.add("end_at", "must not be before start_at")
    if changed & {"catch_up_policy", "catch_up_window"}:
        runs_all, window = values["catch_up_policy"] == "run_all", values["catch_up_seconds"]
        if runs_all and window is None:
            violations.add("catch_up_window", "is required with RUN_ALL")
        elif not runs_all and window is not None:
            violations.add("catch_up_window", "may be set with RUN_ALL only")


def check_job(
    type_: str, input_: Mapping[str, Any], job_type: JobTypeRecord | None, violations: Violations
) -> None:
    """Add to `violations` why no job of the type (`job_type` None: not published) could be created with the input."""
    if type_ in DELIVERY_TYPES:
        violations.add("type", f"{type_!r} is for deliveries, which are made by the system only")
        return
    if job_type is None:
        if type_:
            violations.add("type", f"{type_!r} is no job type that a worker has published")
        return
    try:
        validator = compile_schema(orjson.loads(job_type.input_schema_json))
    except ValueError:
        violations.add("type", "was published with an input schema that cannot be used")
        return
    for name, description in find_violations(validator, input_, root="input"):
        violations.add(name, description)


def check_time_zone(name: str, value: str, violations: Violations) -> ZoneInfo:
    """Return the time zone that a field names; empty: UTC."""
    try:
        return load_zone(value or "UTC")
    except LookupError:
        violations.add(name, 'must be an IANA time zone, such as "Europe/Paris"')
        return load_zone("UTC")
