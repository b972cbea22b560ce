from pathlib import Path

import pytest
from pydantic import ValidationError

from millrace_runtime.settings import Settings, SettingsError, read_settings, unknown_variables


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"MILLRACE_{name.upper()}", raising=False)


def test_defaults_suit_one_machine() -> None:
    settings = read_settings()
    assert settings.database_url is None
    assert (settings.host, settings.insecure) == ("127.0.0.1", False)
    assert (settings.jobs_port, settings.scheduler_port, settings.worker_port) == (50051, 50052, 50053)
    assert settings.jobs_address == "127.0.0.1:50051"
    assert settings.data_dir == Path(".millrace")
    assert settings.handlers == ("millrace_worker.handlers",)


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_HANDLERS", "my_app.handlers, other.handlers,")
    monkeypatch.setenv("MILLRACE_INSECURE", "1")
    monkeypatch.setenv("MILLRACE_LOG_LEVEL", "debug")
    monkeypatch.setenv("MILLRACE_SHUTDOWN_GRACE_SECONDS", "2.5")
    settings = read_settings()
    assert settings.handlers == ("my_app.handlers", "other.handlers")
    assert settings.insecure
    assert settings.log_level == "DEBUG"
    assert settings.shutdown_grace_seconds == 2.5


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_DATABASE_URL", "")
    monkeypatch.setenv("MILLRACE_JOBS_PORT", "")
    assert read_settings().database_url is None
    assert read_settings().jobs_port == 50051


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.2", "127.0.0.2:6000"),
        ("0.0.0.0", "127.0.0.1:6000"),  # noqa: S104 - where nothing is bound
        ("::1", "[::1]:6000"),
        ("::", "[::1]:6000"),
    ],
)
def test_the_scheduler_looks_for_jobs_on_this_machine(host: str, address: str) -> None:
    assert Settings(host=host, jobs_port=6000).jobs_address == address


def test_the_jobs_address_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_JOBS_ADDRESS", "dns:///jobs:50051")
    assert read_settings().jobs_address == "dns:///jobs:50051"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOBS_PORT", "-1"),
        ("JOBS_PORT", "65536"),
        ("WORKER_PORT", "http"),
        ("DATABASE_POOL_SIZE", "0"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("SHUTDOWN_GRACE_SECONDS", "-1"),
        ("SHUTDOWN_GRACE_SECONDS", "inf"),
        ("INSECURE", "perhaps"),
        ("S3_PREFIX", "/millrace/"),
        ("S3_PREFIX", "millrace"),
        ("S3_PREFIX", "my files/"),
        ("S3_PREFIX", "../"),
        ("WORKER_SLOTS", "0"),
        ("HEARTBEAT_SECONDS", "0"),
        ("MAX_MESSAGE_BYTES", str(2**31)),
    ],
)
def test_a_wrong_value_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MILLRACE_{name}", value)
    with pytest.raises(SettingsError) as refusal:
        read_settings()
    text = str(refusal.value)
    assert text.startswith(f"MILLRACE_{name}: ")
    assert "\n" not in text
    assert "input_value" not in text


def test_all_wrong_values_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_JOBS_PORT", "x")
    monkeypatch.setenv("MILLRACE_WORKER_SLOTS", "x")
    with pytest.raises(SettingsError, match=r"MILLRACE_JOBS_PORT: .*; MILLRACE_WORKER_SLOTS: "):
        read_settings()


def test_a_lease_outlives_a_missed_heartbeat() -> None:
    with pytest.raises(ValidationError, match="MILLRACE_LEASE_SECONDS must be at least twice"):
        Settings(heartbeat_seconds=10, lease_seconds=19)
    assert Settings(heartbeat_seconds=10, lease_seconds=20).lease_seconds == 20


def test_the_password_does_not_show() -> None:
    assert "secret" not in repr(Settings(database_url="postgresql://me:secret@db/x"))


def test_misspelt_variables_are_found() -> None:
    environment = {"MILLRACE_JOBS_PORT": "1", "MILLRACE_JOB_PORT": "1", "PATH": "/", "millrace_hots": "x"}
    assert unknown_variables(environment) == ["MILLRACE_JOB_PORT", "millrace_hots"]


def test_the_documentation_lists_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "services.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `MILLRACE_")]
    documented = {row[1].strip().strip("`"): row[2].strip().strip("`") for row in rows}
    defaults = Settings()
    for name in Settings.model_fields:
        default = getattr(defaults, name)
        if name != "jobs_address":
            assert documented.pop(f"MILLRACE_{name.upper()}") == _as_written(default), name
    assert list(documented) == ["MILLRACE_JOBS_ADDRESS"]


def _as_written(default: object) -> str:
    if default is None:
        return "unset"
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(int(default))
    if isinstance(default, float):
        return f"{default:g}"
    return str(default)


def test_a_mail_server_needs_both_a_user_and_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_SMTP_USERNAME", "mill")
    with pytest.raises(SettingsError, match="MILLRACE_SMTP_USERNAME and MILLRACE_SMTP_PASSWORD"):
        read_settings()
    monkeypatch.setenv("MILLRACE_SMTP_PASSWORD", "long-and-secret")
    assert "long-and-secret" not in repr(read_settings())


def test_media_types_that_may_be_uploaded_are_compared_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_FILES_ALLOWED_TYPES", "Text/*, application/vnd.ms-excel")
    assert read_settings().files_allowed_types == ("text/*", "application/vnd.ms-excel")


@pytest.mark.parametrize(
    "value", ["text", "*", "*/*", "text/", "/csv", "text/csv;q=1", "text/csv x", "a/b/c"]
)
def test_what_is_no_media_type_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MILLRACE_FILES_ALLOWED_TYPES", value)
    with pytest.raises(SettingsError, match=r"^MILLRACE_FILES_ALLOWED_TYPES: holds media types such as"):
        read_settings()
