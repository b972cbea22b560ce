"""Which addresses of the internet protocols are public."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# An address of IPv4 is in the last 32 bits of these.
_TRANSLATED = IPv6Network("64:ff9b::/96")


def is_public_address(address: str) -> bool:
    """Tell whether an IP address can be reached from anywhere: it is no private, loopback, link-local, multicast or reserved one.

    An IPv6 address that stands for one of IPv4 is as public as that. Raises ValueError for what is no IP address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and (inner := _inner(parsed)) is not None:
        parsed = inner
    # Site-local addresses are private ones of old, but count as global.
    is_site_local = isinstance(parsed, IPv6Address) and parsed.is_site_local
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or is_site_local)


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
