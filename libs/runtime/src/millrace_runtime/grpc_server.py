import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import grpc
import structlog
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from millrace_runtime.addresses import is_loopback, is_wildcard, join_host_port
from millrace_runtime.settings import Settings, StartupError

_MINUTE_MS = 60_000
_MEBIBYTE = 1 << 20

_OPTIONS = (
    # Connections end after a while, so that clients look up the addresses anew and find new copies of a service;
    # a call that still runs then has another hour. gRPC itself varies the age by a tenth.
    ("grpc.max_connection_age_ms", 10 * _MINUTE_MS),
    ("grpc.max_connection_age_grace_ms", 60 * _MINUTE_MS),
    ("grpc.keepalive_time_ms", _MINUTE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients may ping this often, also while they only wait.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # So much of a stream may be on its way to us. gRPC would raise that itself, to several times as much, for each stream.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _MEBIBYTE),
    # Two servers never share a port: the second one fails.
    ("grpc.so_reuseport", 0),
)

_log = structlog.get_logger()


def check_binding(settings: Settings) -> None:
    """Raise StartupError when other machines could call and nobody allowed that: callers are not authenticated."""
    if not is_loopback(settings.host) and not settings.insecure:
        raise StartupError(
            f"MILLRACE_HOST={settings.host} lets other machines call, and callers are not authenticated: "
            "use a loopback address, or set MILLRACE_INSECURE=1 where the network is trusted"
        )


def log_binding(settings: Settings) -> None:
    """Log who can call: nobody is authenticated."""
    if is_loopback(settings.host):
        _log.info("callers are not authenticated", reach="this machine")
    else:
        _log.warning("callers are not authenticated", reach="all machines that reach this one")


class LateServices(grpc.GenericRpcHandler):
    """Services that are added to a server after it has started, which the server itself does not allow."""

    def __init__(self) -> None:
        self._handlers: list[grpc.GenericRpcHandler] = []

    def add(self, servicers: Mapping[str, Callable[[grpc.aio.Server], None]]) -> None:
        """Add services, by full name, and the reflection that lets tools ask for their contracts."""
        # What adds a servicer to a server calls the two methods below, and no other.
        server = cast("grpc.aio.Server", self)
        for add_servicer in servicers.values():
            add_servicer(server)
        names = [*servicers, health.SERVICE_NAME, reflection.SERVICE_NAME]
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add_reflection(reflection.aio.ReflectionServicer(names), server)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add the methods of a service, as a server does."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Do nothing: the same methods are among the generic handlers."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method; None when no service has it."""
        found = (handler.service(handler_call_details) for handler in self._handlers)
        return next((handler for handler in found if handler is not None), None)


def make_server(
    settings: Settings, services: LateServices, interceptors: Sequence[grpc.aio.ServerInterceptor]
) -> grpc.aio.Server:
    """Return a server with the options that all services share; it has no port yet."""
    return grpc.aio.server(
        handlers=[services],
        interceptors=interceptors,
        options=[
            *_OPTIONS,
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
        ],
        maximum_concurrent_rpcs=settings.max_concurrent_calls,
    )


def bind(server: grpc.aio.Server, host: str, port: int) -> int:
    """Listen on `host` and `port` (0: any free one) and return the port. Raises StartupError when it is taken."""
    address = join_host_port(host, port)
    try:
        _check_can_bind(host, port)
        return server.add_insecure_port(address)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StartupError(f"cannot listen on {address}: {reason.lower()}") from None


def advertised_address(settings: Settings, port: int) -> str:
    """Return where other services reach a server that listens on `port`."""
    return join_host_port(advertised_host(settings), port)


def advertised_host(settings: Settings) -> str:
    """Return the name or address at which others reach what listens here."""
    host = settings.advertised_host or settings.host
    return socket.gethostname() if is_wildcard(host) else host


def _check_can_bind(host: str, port: int) -> None:
    # gRPC keeps the reason to itself, and writes to standard error; the same attempt with a plain socket tells it.
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
