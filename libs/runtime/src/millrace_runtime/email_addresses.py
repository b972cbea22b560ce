"""The fields of requests that hold e-mail addresses."""

import re
from collections.abc import Sequence

from millrace_runtime.validation import Violations

_MAX_ADDRESSES = 20
_MAX_ADDRESS_LENGTH = 254

# Without "=?", which begins an encoded word: mail programs would read another address, or a line break, in it.
_ADDRESS = re.compile(
    r"(?!.*=\?)[^\s@<>()\[\]\\,;:\"\x00-\x1f\x7f-\U0010ffff]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"
)


def check_email_addresses(
    field: str, addresses: Sequence[str], violations: Violations, *, minimum: int
) -> list[str]:
    """Return the addresses that a field holds, `minimum` to 20; what is wrong with them is added to `violations`."""
    if not minimum <= len(addresses) <= _MAX_ADDRESSES:
        violations.add(field, f"must hold {minimum} to {_MAX_ADDRESSES} addresses")
    # So many are looked at: a request may hold a million.
    looked_at = list(addresses[:_MAX_ADDRESSES])
    for index, address in enumerate(looked_at):
        if len(address) > _MAX_ADDRESS_LENGTH or not _ADDRESS.fullmatch(address):
            violations.add(f"{field}[{index}]", "must be an e-mail address")
        elif address in looked_at[:index]:
            violations.add(f"{field}[{index}]", "is there already")
    return looked_at
