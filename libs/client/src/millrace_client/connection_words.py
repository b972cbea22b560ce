"""What gRPC says of a connection, in words for people."""

import re
from urllib.parse import unquote

_BROKEN = re.compile(
    r"Cancelling all calls|Stream removed|Error in HTTP transport|Socket closed|GOAWAY|(?:send|recv)msg:|Connection reset by peer"
)
BROKEN = "the service stopped, or the connection to it broke"
"""What is said of a call that ended in the middle."""

_NOT_MADE = re.compile(r"(?:ipv[46]:)?(\S+): Failed to connect to remote host: (?:connect: )?(.*)")


def in_words(details: str) -> str:
    """Return what gRPC says of a service that is UNAVAILABLE in plain words; what is nothing of its own stays."""
    if refused := _NOT_MADE.search(details):
        address, why = refused.groups()
        return f"the service at {unquote(address)} cannot be reached: {why}"
    return BROKEN if _BROKEN.search(details) else details
