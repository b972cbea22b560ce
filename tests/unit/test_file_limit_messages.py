import pytest

from millrace_storage.file_errors import Limit, LimitExceeded


@pytest.mark.parametrize(
    ("limit", "allowed", "text"),
    [
        ("files", 1, "the organisation may not have more than 1 file"),
        ("files", 1_000, "the organisation may not have more than 1,000 files"),
        ("total_bytes", 1, "the organisation's files may not take up more than 1 byte"),
        ("file_bytes", 5 * 2**30, "a file may not be longer than 5,368,709,120 bytes"),
        ("uploads", 1_000, "the organisation may not have more than 1,000 open uploads"),
    ],
)
def test_a_limit_is_said_as_people_say_it(limit: Limit, allowed: int, text: str) -> None:
    assert str(LimitExceeded(limit, allowed)) == text
