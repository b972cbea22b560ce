"""The SDK's enums and those of the contracts, whose values have the same names behind a prefix."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Generic, TypeVar

_Member = TypeVar("_Member", bound=StrEnum)
_UNKNOWN = "UNKNOWN"


def named_member(kind: type[_Member], name: str) -> _Member:
    """Return the member of that name, in any case, with "-" or "_" between words.

    ValueError with the names there are when there is none, as for UNKNOWN.
    """
    wanted = str(name).upper().replace("-", "_")
    if wanted == _UNKNOWN or wanted not in kind.__members__:
        known = (member for member in kind if member != _UNKNOWN)
        raise ValueError(f"{name!r} is none of {', '.join(known)}")
    return kind[wanted]


class ContractEnum(Generic[_Member]):
    """Turns values of a contract's enum into members of one of the SDK, and back.

    The SDK's enum has a member for each value but the unspecified one, and UNKNOWN for those that were added later.
    """

    def __init__(self, kind: type[_Member], values: Iterable[tuple[str, int]], prefix: str) -> None:
        """Take the values of the contract's enum with their names."""
        self._kind = kind
        # The contracts that are installed may be newer than the SDK.
        self._values = {
            kind[member]: value
            for name, value in values
            if (member := name.removeprefix(prefix)) in kind.__members__
        }
        self._members = {value: member for member, value in self._values.items()}

    def read(self, value: int) -> _Member:
        """Return the member for a value of the contract; UNKNOWN for the unspecified one, too."""
        return self._members.get(value) or self._kind(_UNKNOWN)

    def read_optional(self, value: int) -> _Member | None:
        """Return the member for a value of the contract, or None when it is unspecified."""
        return self.read(value) if value else None

    def value(self, member: _Member | str | None) -> Any:
        """Return the contract's value, the unspecified one for None.

        ValueError with the members there are when there is no such one.
        """
        if member is None:
            return 0
        wanted = named_member(self._kind, member)
        if wanted not in self._values:
            raise ValueError(f"{wanted} cannot be asked for")
        return self._values[wanted]
