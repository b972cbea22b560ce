import ipaddress

DIRECTLY = (("grpc.enable_http_proxy", 0),)
"""Options of a channel from one part of the system to another: gRPC would obey http_proxy even on this machine."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (compared, not bound)


def join_host_port(host: str, port: int) -> str:
    """Return `host:port`, with an IPv6 address in brackets, as gRPC wants it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_wildcard(host: str) -> bool:
    """Whether listening on `host` means all addresses of this machine."""
    return host in _WILDCARDS


def local_host(host: str) -> str:
    """Return an address at which this machine reaches a server that listens on `host`."""
    return _WILDCARDS.get(host, host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
