"""Which addresses of the internet protocols are public."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# An address of IPv4 is in the last 32 bits of these.
_TRANSLATED = IPv6Network("64:ff9b::/96")
# Python knows some of these since 3.11.9 only. The metadata service of a cloud has one of them.
_OF_PROTOCOLS = IPv4Network("192.0.0.0/24")
# Host names never end in such a part; programs that look them up read an IPv4 address.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)


def is_public_address(address: str) -> bool:
    """Tell whether an IP address can be reached from anywhere: it is no private, loopback, link-local, multicast or reserved one.

    An IPv6 address that stands for one of IPv4 is as public as that. Raises ValueError for what is no IP address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and (inner := _inner(parsed)) is not None:
        parsed = inner
    # Site-local addresses are private ones of old, but count as global.
    is_site_local = isinstance(parsed, IPv6Address) and parsed.is_site_local
    is_of_protocol = isinstance(parsed, IPv4Address) and parsed in _OF_PROTOCOLS
    return parsed.is_global and not (
        parsed.is_multicast or parsed.is_reserved or is_site_local or is_of_protocol
    )


def is_odd_address(host: str) -> bool:
    """Tell whether a host is an IPv4 address in another spelling than four decimal numbers: `127.1`, `0x7f000001`, `0177.0.0.1`.

    What such a spelling stands for depends on who reads it.
    """
    if not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return False
    try:
        ip_address(host)
    except ValueError:
        return True
    return False


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
