"""What is to be known of an S3 server, and the connections to it."""

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ConfigParseError, InvalidRegionError, ProfileNotFound

from millrace_storage.object_store import StoreUnusableError
from millrace_storage.s3_models import CompactModelLoader
from millrace_storage.s3_session import watched_session
from millrace_storage.s3_sign_of_life import gives_sign_of_life
from millrace_storage.s3_silence import SilenceTimes, SilenceWatch
from millrace_storage.storage_options import StorageOptions

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class S3Configuration:
    """Where an S3 server is and how it is spoken to; who speaks is found in the usual places of AWS."""

    endpoint: str | None = None
    """The URL of the server; None: AWS."""

    public_endpoint: str | None = None
    """The same for presigned URLs; None: `endpoint`."""

    region: str | None = None
    """None: as AWS's own settings say, else us-east-1."""

    path_style: bool | None = None
    """Whether the bucket stands in the path; None: with an endpoint of its own."""

    pool_size: int = 50
    """Connections at most."""

    connect_seconds: float = 5.0
    """How long a connection may take."""

    read_seconds: float = 60.0
    """How long a request may go unanswered by a server that gives signs of life."""

    attempts: int = 3
    """How often a request is made before it has failed."""

    silence: SilenceTimes = field(default_factory=SilenceTimes)
    """When the server counts as silent, so that no request waits for it any longer."""

    @classmethod
    def of(cls, options: StorageOptions) -> Self:
        """Return what the options say."""
        return cls(
            endpoint=options.s3_endpoint,
            public_endpoint=options.s3_public_endpoint,
            region=options.s3_region,
            path_style=options.s3_path_style,
            pool_size=options.s3_pool_size,
            connect_seconds=options.s3_connect_seconds,
            read_seconds=options.s3_read_seconds,
            attempts=options.s3_attempts,
            silence=_silence_times(options.s3_connect_seconds),
        )


def _silence_times(connect_seconds: float) -> SilenceTimes:
    # A question needs a connection of its own.
    usual = SilenceTimes()
    return replace(usual, question_seconds=max(usual.question_seconds, connect_seconds))


@dataclass(frozen=True, slots=True)
class S3Clients:
    """Two views of one server: `own` for requests of this process, `public` only to sign requests of others."""

    own: "S3Client"
    public: "S3Client"
    attempts: int
    watch: SilenceWatch
    """Knows whether the server is silent; requests of `own` ask it by themselves, who reads what they return does too."""


@asynccontextmanager
async def open_s3_clients(configuration: S3Configuration) -> AsyncIterator[S3Clients]:
    """Open clients of a server; nothing is sent to it.

    Raises StoreUnusableError when there can be no such server.
    """
    public_endpoint = configuration.public_endpoint or configuration.endpoint

    async def lives(url: str) -> bool:
        return await gives_sign_of_life(url, configuration.silence.question_seconds)

    async with AsyncExitStack() as clients:
        watch = SilenceWatch(lives, configuration.silence)
        config = _config(configuration, watch)
        setting = "MILLRACE_S3_ENDPOINT"
        try:
            session = _session()
            region = configuration.region or session.region_name or _DEFAULT_REGION
            own = await clients.enter_async_context(
                session.client("s3", region_name=region, endpoint_url=configuration.endpoint, config=config)
            )
            public = own
            if public_endpoint != configuration.endpoint:
                setting = "MILLRACE_S3_PUBLIC_ENDPOINT"
                public = await clients.enter_async_context(
                    session.client("s3", region_name=region, endpoint_url=public_endpoint, config=config)
                )
        except InvalidRegionError:
            raise StoreUnusableError("MILLRACE_S3_REGION: there can be no such region") from None
        except ValueError:
            # It may hold a password.
            raise StoreUnusableError(
                f"{setting}: there can be no such server; give a URL such as https://s3.example.com"
            ) from None
        except BotoCoreError as error:
            raise StoreUnusableError(f"AWS's own settings cannot be used: {_described(error)}") from None
        # Ends before them.
        await clients.enter_async_context(watch)
        own.meta.events.register("before-sign.s3.DeleteObjects", _send_md5)
        yield S3Clients(own, public, configuration.attempts, watch)


def _described(error: BotoCoreError) -> str:
    # These name a file or a profile, and nothing that stands in it.
    return str(error) if isinstance(error, ConfigParseError | ProfileNotFound) else type(error).__name__


def _session() -> aioboto3.Session:
    session = AioSession()
    session.get_component("data_loader").file_loader = CompactModelLoader()
    return aioboto3.Session(botocore_session=session)


def _config(configuration: S3Configuration, watch: SilenceWatch) -> AioConfig:
    path_style = configuration.path_style
    if path_style is None:
        path_style = configuration.endpoint is not None
    return AioConfig(
        http_session_cls=watched_session(watch, configuration.read_seconds),
        # By default requests to another server than AWS would be presigned by the old version 2.
        signature_version="s3v4",
        # Many servers refuse the checksums that are sent by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=configuration.connect_seconds,
        read_timeout=configuration.read_seconds,
        retries={"mode": "standard", "total_max_attempts": configuration.attempts},
        max_pool_connections=configuration.pool_size,
        s3={"addressing_style": "path" if path_style else "virtual"},
    )


def _send_md5(request: Any, **_: object) -> None:
    """Send MD5 instead of a CRC: all servers take it here, some demand it, and some refuse the other's headers."""
    for header in [name for name in request.headers if name.lower().startswith(_CHECKSUM_HEADERS)]:
        del request.headers[header]
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    del request.headers["Content-MD5"]
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


_CHECKSUM_HEADERS = ("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")
