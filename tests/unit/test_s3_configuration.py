import pytest

from millrace_runtime.settings import read_settings
from millrace_storage.s3_client import S3Configuration


@pytest.mark.parametrize(("connect_seconds", "question_seconds"), [(2.0, 5.0), (30.0, 30.0)])
def test_a_question_has_the_time_that_a_connection_may_take(
    monkeypatch: pytest.MonkeyPatch, connect_seconds: float, question_seconds: float
) -> None:
    monkeypatch.setenv("MILLRACE_S3_CONNECT_SECONDS", str(connect_seconds))
    configuration = S3Configuration.of(read_settings())
    assert configuration.connect_seconds == connect_seconds
    assert configuration.silence.question_seconds == question_seconds
