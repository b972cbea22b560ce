from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum

from millrace_runtime.errors import PermissionDenied

ALL_ORGANISATIONS = "-"


class Role(Enum):
    """What a caller may do beyond acting for itself in its own organisations."""

    SERVICE = "service"
    """Names another as the creator of what it creates."""
    OPERATOR = "operator"
    """Lists over all organisations."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, and what it may do."""

    subject: str
    """Who it is; what it creates without naming a creator is created by this subject."""
    organisations: frozenset[str] | None = None
    """The organisations it may act in; None: all."""
    roles: frozenset[Role] = field(default_factory=frozenset)

    def require_organisation(self, org_id: str) -> None:
        """Raise PermissionDenied unless the caller may act in `org_id` ("-": in all of them)."""
        if org_id == ALL_ORGANISATIONS:
            self.require_role(Role.OPERATOR)
        elif self.organisations is not None and org_id not in self.organisations:
            raise PermissionDenied("not allowed in this organisation")

    def require_role(self, role: Role) -> None:
        """Raise PermissionDenied unless the caller has `role`."""
        if role not in self.roles:
            raise PermissionDenied(f"needs the role {role.value}")

    def creator(self, created_by: str) -> str:
        """Return whom to record as the creator: `created_by`, or the caller when it is empty.

        Raises PermissionDenied when another is named by a caller that is no service.
        """
        if created_by in ("", self.subject):
            return self.subject
        if Role.SERVICE not in self.roles:
            raise PermissionDenied("only a service may name another creator")
        return created_by


_current: ContextVar[Caller] = ContextVar("caller")

_ANONYMOUS = Caller(subject="anonymous", organisations=None, roles=frozenset(Role))


def current_caller() -> Caller:
    """Return who makes the call that is being answered. Raises LookupError outside of a call."""
    return _current.get()


def set_caller(caller: Caller) -> None:
    """Make `caller` the current one, for the rest of the task that answers its call."""
    _current.set(caller)


def authenticate(metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
    """Return who makes a call with this metadata.

    No caller proves its identity today: each one is anonymous and may do everything, which is why a service
    listens on loopback addresses only unless it is told otherwise.
    """
    del metadata
    return _ANONYMOUS
