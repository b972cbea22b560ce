import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from millrace_database.ids import parse_id
from millrace_runtime.errors import FieldViolation, InvalidArgument
from millrace_runtime.identity import ALL_ORGANISATIONS
from millrace_runtime.json_document import JsonDocument, json_document, parse_json_object
from millrace_runtime.struct_json import duration_to_timedelta, timestamp_to_datetime

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

_ORG_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_NO_ID = UUID(int=0)
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_NO_DOCUMENT = JsonDocument("{}", {})


class Violations:
    """Collects what is wrong with a request, so that the caller learns all of it at once.

    Each check returns the value in the form the code works with. After a violation that is a harmless stand-in
    (an empty text, the nil UUID, ...): call `raise_if_any` before anything is used.
    `prefix` is put before each field, such as `header.` for those of a nested message.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._found: list[FieldViolation] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, field: str, description: str) -> None:
        """Note that `field` is wrong; the description completes "the field …"."""
        self._found.append(FieldViolation(self._prefix + field, description))

    def raise_if_any(self) -> None:
        """Raise InvalidArgument with all that was noted, if anything was."""
        if self._found:
            raise self.error()

    def error(self) -> InvalidArgument:
        """Return what was noted as an error, for the place of an item in the answer to a batch."""
        return InvalidArgument(self._found)

    def require(self, field: str, value: object) -> bool:
        """Return whether `value` is given (neither empty, zero nor None); notes it as required if not."""
        if not value:
            self.add(field, "is required")
        return bool(value)

    def check_org_id(self, value: str, *, field: str = "org_id", allow_all: bool = False) -> str:
        """Check an organisation's id: letters, digits, "-", "_" and ".", 1 to 128 characters.

        "-" stands for all organisations and passes only with `allow_all`.
        """
        if not self.require(field, value):
            return ""
        if not _ORG_ID.fullmatch(value):
            self.add(field, 'may hold letters, digits, "-", "_" and ".", at most 128 characters')
            return ""
        if value == ALL_ORGANISATIONS and not allow_all:
            self.add(field, 'must name one organisation; "-" means all of them')
            return ""
        return value

    def check_text(self, field: str, value: str, *, max_length: int, required: bool = False) -> str:
        """Check a text: at most `max_length` characters, without U+0000."""
        if required and not self.require(field, value):
            return ""
        if len(value) > max_length:
            self.add(field, f"is {len(value)} characters long, more than {max_length}")
            return ""
        if "\0" in value:
            self.add(field, "holds the character U+0000, which cannot be stored")
            return ""
        return value

    def check_id(self, field: str, value: str, prefix: str) -> UUID:
        """Check a required id such as `job_…`, `prefix` being `job`."""
        if not self.require(field, value):
            return _NO_ID
        try:
            return parse_id(prefix, value)
        except ValueError:
            self.add(field, f'must be "{prefix}_" and 32 hexadecimal digits')
            return _NO_ID

    def check_range(self, field: str, value: int, minimum: int, maximum: int) -> int:
        """Check that `value` lies within `minimum` and `maximum`, both included."""
        if minimum <= value <= maximum:
            return value
        self.add(field, f"must be {minimum} to {maximum}")
        return minimum

    def check_page_size(self, value: int, *, field: str = "page_size") -> int:
        """Check how many items a page may hold: 0 means 50, more than 1,000 means 1,000, less than 0 is wrong."""
        if value < 0:
            self.add(field, "must not be negative")
        return min(value, MAX_PAGE_SIZE) if value > 0 else DEFAULT_PAGE_SIZE

    def check_timestamp(self, field: str, value: Timestamp) -> datetime:
        """Check a time: the years 1 to 9999, nanoseconds 0 to 999,999,999. Returned in UTC, to the microsecond."""
        if not 0 <= value.nanos <= 999_999_999:
            self.add(field, "has nanos outside of 0 to 999,999,999")
            return _NO_TIME
        try:
            return timestamp_to_datetime(value)
        except OverflowError:
            self.add(field, "must lie within the years 1 to 9999")
            return _NO_TIME

    def check_duration(
        self, field: str, value: Duration, minimum: timedelta, maximum: timedelta
    ) -> timedelta:
        """Check that a duration lies within `minimum` and `maximum`, both included. Returned to the microsecond."""
        try:
            duration = duration_to_timedelta(value)
        except ValueError:
            self.add(field, "has seconds and nanos that are no duration")
            return minimum
        if minimum <= duration <= maximum:
            return duration
        self.add(field, f"must be {_in_words(minimum)} to {_in_words(maximum)}")
        return minimum

    def check_struct(self, field: str, value: Struct, *, max_bytes: int) -> JsonDocument:
        """Check a JSON object sent as a Struct: its size as JSON, its depth, U+0000, NaN and infinities."""
        try:
            return json_document(value, max_bytes=max_bytes)
        except ValueError as error:
            self.add(field, str(error))
            return _NO_DOCUMENT

    def check_json(self, field: str, value: bytes, *, max_bytes: int) -> JsonDocument:
        """Check a JSON object sent as text: that it is one, and the same as for a Struct."""
        try:
            return parse_json_object(value, max_bytes=max_bytes)
        except ValueError as error:
            self.add(field, str(error))
            return _NO_DOCUMENT


def _in_words(duration: timedelta) -> str:
    if duration and not duration % timedelta(days=1):
        return "1 day" if duration.days == 1 else f"{duration.days} days"
    return f"{duration.total_seconds():g} s"
