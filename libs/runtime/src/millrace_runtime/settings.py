import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from millrace_runtime.addresses import join_host_port, local_host

PREFIX = "MILLRACE_"

_KIBIBYTE = 1024
_MEBIBYTE = 1024 * _KIBIBYTE
_GIBIBYTE = 1024 * _MEBIBYTE

# What the SDK and the command read; they may share their environment with a service.
_CLIENT_VARIABLES = frozenset({"MILLRACE_ORG_ID", "MILLRACE_SCHEDULER_ADDRESS", "MILLRACE_WORKER_ADDRESS"})

# RFC 6838, section 4.2; or all of a type.
_MEDIA_TYPE = re.compile(
    r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/(\*|[a-z0-9][a-z0-9!#$&^_.+-]{0,126})", re.IGNORECASE | re.ASCII
)

Port = Annotated[int, Field(ge=0, le=65535)]
Days = Annotated[float, Field(ge=1, le=36_500)]


class StartupError(Exception):
    """The process cannot start as things are; the text says why, in one line."""


class SettingsError(StartupError):
    """The environment holds settings that cannot be used; the text names each of them."""


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _media_types(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        if not _MEDIA_TYPE.fullmatch(pattern):
            raise ValueError("holds media types such as text/csv and text/*, without parameters")
    return tuple(pattern.lower() for pattern in patterns)


def _known_level(value: str) -> str:
    level = value.upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("is one of DEBUG, INFO, WARNING, ERROR")
    return level


def _jobs_beside_us(validated: dict[str, Any]) -> str:
    return join_host_port(local_host(validated.get("host", "")), validated.get("jobs_port", 0))


class Settings(BaseSettings):
    """What the environment says (`MILLRACE_<NAME>`), read once when a process starts.

    An empty variable counts as unset. docs/services.md holds the same list for people.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, hide_input_in_errors=True
    )

    database_url: str | None = Field(default=None, repr=False)
    """The Postgres to use, as a URL. Unset: an embedded one under `data_dir`, for development only."""

    data_dir: Path = Path(".millrace")
    """The folder of the embedded Postgres and of locally stored files."""

    host: str = "127.0.0.1"
    """The address to listen on. Any but a loopback one needs `insecure`."""

    jobs_port: Port = 50051
    """The Jobs service's port; 0: any free one."""

    scheduler_port: Port = 50052
    """The Scheduler service's port; 0: any free one."""

    worker_port: Port = 50053
    """The Worker service's port; 0: any free one."""

    jobs_address: str = Field(default_factory=_jobs_beside_us)
    """Where the Scheduler finds the Jobs service, as a gRPC target. Unset: this machine, at `jobs_port`."""

    advertised_host: str | None = None
    """The name or address under which other services reach this one. Unset: `host`, or this machine's name
    when `host` is a wildcard."""

    insecure: bool = False
    """Allows callers from other machines although no caller is authenticated."""

    log_level: Annotated[str, AfterValidator(_known_level)] = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    log_format: Literal["auto", "json", "text"] = "auto"
    """One JSON object a line, or text for people. auto: text on a terminal, else JSON."""

    shutdown_grace_seconds: float = Field(default=8.0, ge=0, le=3600)
    """How long a stopping service may take to end calls and to finish or hand back jobs."""

    database_pool_size: int = Field(default=5, ge=1, le=1000)
    """Connections to Postgres per process, at most."""

    max_concurrent_calls: int = Field(default=10_000, ge=1)
    """Calls that a service answers at once, streams included; further ones get RESOURCE_EXHAUSTED."""

    max_message_bytes: int = Field(default=32 * _MEBIBYTE, ge=4 * _KIBIBYTE, le=2**31 - 1)
    """The largest gRPC message that is received or sent, in bytes."""

    max_input_bytes: int = Field(default=_MEBIBYTE, ge=2)
    """The largest input of a job, in bytes of JSON."""

    storage_provider: Literal["local", "s3"] = "local"
    """Where new files are kept: `local`, under `data_dir`, or `s3`, in `s3_bucket`. Files stay readable where they are."""

    s3_bucket: str | None = None
    """The bucket. It is not created."""

    s3_endpoint: str | None = None
    """The URL of an S3-compatible server. Unset: AWS."""

    s3_public_endpoint: str | None = None
    """The URL under which those who get presigned URLs reach that server. Unset: `s3_endpoint`."""

    s3_region: str | None = None
    """The region; `auto` for R2. Unset: as AWS's own settings say, else us-east-1."""

    s3_prefix: Annotated[str, Field(max_length=256, pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]{0,254}/)*$")] = ""
    """What the keys of new objects begin with, such as `millrace/`: names of letters, digits, `_`, `-` and `.`, each with a `/` behind it."""

    s3_path_style: bool | None = None
    """Whether the bucket stands in the path of URLs and not in the host. Unset: yes with `s3_endpoint`."""

    s3_pool_size: int = Field(default=50, ge=1, le=1000)
    """Connections to the object store per process, at most."""

    s3_connect_seconds: float = Field(default=5.0, gt=0, le=300)
    """How long a connection to the object store may take."""

    s3_read_seconds: float = Field(default=60.0, gt=0, le=3600)
    """How long the object store may be silent."""

    s3_attempts: int = Field(default=3, ge=1, le=20)
    """How often a request to the object store is made before it has failed."""

    files_port: Port = 50054
    """The port where the Jobs service takes and gives presigned content of the local store; 0: any free one."""

    files_url: str | None = None
    """The URL under which clients reach that port. Unset: http, at `advertised_host` or this machine."""

    file_max_bytes: int = Field(default=5 * _GIBIBYTE, ge=0)
    """The largest file that may be uploaded, in bytes, where nothing else is set for the organisation; 0: no limit."""

    files_max_total_bytes: int = Field(default=0, ge=0)
    """What the files of an organisation may take up, in bytes, where nothing else is set for it; 0: no limit."""

    files_max_count: int = Field(default=0, ge=0)
    """How many files an organisation may have, where nothing else is set for it; 0: no limit."""

    files_allowed_types: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_media_types)
    ] = ()
    """The media types that may be uploaded, such as `text/*,application/pdf`. Unset: all."""

    files_temporary_hours: float = Field(default=24.0, gt=0, le=87_600)
    """For how long temporary files are kept."""

    files_deleted_days: float = Field(default=7.0, ge=0, le=36_500)
    """For how long deleted files can be undeleted."""

    storage_cleanup_dry_run: bool = False
    """Has the clean-up of the storage say what it would remove, and remove nothing."""

    handlers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ("millrace_worker.handlers",)
    """The modules whose job handlers the worker runs, separated by commas."""

    worker_slots: int = Field(default=100, ge=1, le=100_000)
    """Jobs that one worker runs at once, over all types."""

    heartbeat_seconds: float = Field(default=3.0, gt=0, le=3600)
    """The time between two heartbeats of a worker."""

    lease_seconds: float = Field(default=12.0, gt=0, le=86_400)
    """A worker whose latest heartbeat is older than this is lost, and its jobs run elsewhere."""

    retention_completed: Days = 30.0
    """For how many days completed jobs are kept, when their type says nothing else."""

    retention_failed: Days = 30.0
    """For how many days failed jobs are kept, when their type says nothing else."""

    retention_cancelled: Days = 30.0
    """For how many days cancelled jobs are kept, when their type says nothing else."""

    subscription_failing_hours: float = Field(default=24.0, gt=0, le=8760)
    """A subscription whose endpoint has failed for so many hours is disabled."""

    webhook_allow_private: bool = False
    """Lets webhooks go to private addresses and to http, for development."""

    smtp_host: str | None = None
    """The server that sends e-mails. Unset: deliveries by e-mail fail."""

    smtp_port: Annotated[int, Field(ge=1, le=65535)] = 587
    """The port of that server."""

    smtp_username: str | None = None
    """Whom to log in as there. Unset: nobody."""

    smtp_password: str | None = Field(default=None, repr=False)
    """The password of that user."""

    smtp_from: str = "millrace@localhost"
    """The sender of e-mails."""

    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection to it is secured: after the greeting, from its beginning, or not at all."""

    download_link: str | None = None
    """Where people download a file, with `{org_id}` and `{file_id}` in it, for links in e-mails and webhooks. Unset: the
    file's id stands in their place."""

    @model_validator(mode="after")
    def _has_a_bucket(self) -> Self:
        if self.storage_provider == "s3" and self.s3_bucket is None:
            raise ValueError("MILLRACE_S3_BUCKET is needed with MILLRACE_STORAGE_PROVIDER=s3")
        return self

    @model_validator(mode="after")
    def _logs_in_with_both(self) -> Self:
        if (self.smtp_username is None) != (self.smtp_password is None):
            raise ValueError("MILLRACE_SMTP_USERNAME and MILLRACE_SMTP_PASSWORD are set together")
        return self

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("MILLRACE_LEASE_SECONDS must be at least twice MILLRACE_HEARTBEAT_SECONDS")
        return self


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises SettingsError, which names each variable that cannot be used and why, and never its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(
            "; ".join(
                # A default that was not made, because a setting it is made of is at fault, is no fault itself.
                _problem(item)
                for item in error.errors()
                if item["type"] != "default_factory_not_called"
            )
        ) from None


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Name the `MILLRACE_` variables that are no settings: most likely misspelt."""
    known = _CLIENT_VARIABLES | {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(
        name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known
    )


def _problem(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message
    return f"{PREFIX}{str(item['loc'][0]).upper()}: {message}"
