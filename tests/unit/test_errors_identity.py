import pytest

from millrace_runtime.errors import PermissionDenied
from millrace_runtime.identity import Caller, Role, authenticate, current_caller

USER = Caller(subject="ann", organisations=frozenset({"acme"}))
SERVICE = Caller(subject="scheduler", roles=frozenset({Role.SERVICE}))
OPERATOR = Caller(subject="root", roles=frozenset({Role.OPERATOR}))


def test_a_caller_stays_within_its_organisations() -> None:
    USER.require_organisation("acme")
    SERVICE.require_organisation("any")
    for organisation in ("other", "", "-"):
        with pytest.raises(PermissionDenied):
            USER.require_organisation(organisation)


def test_only_operators_see_all_organisations() -> None:
    OPERATOR.require_organisation("-")
    with pytest.raises(PermissionDenied):
        SERVICE.require_organisation("-")


def test_only_services_name_another_creator() -> None:
    assert USER.creator("") == "ann"
    assert USER.creator("ann") == "ann"
    assert SERVICE.creator("ann") == "ann"
    with pytest.raises(PermissionDenied, match="only a service"):
        USER.creator("bob")


def test_outside_of_a_call_there_is_no_caller() -> None:
    with pytest.raises(LookupError):
        current_caller()


def test_today_everybody_is_anonymous_and_may_do_everything() -> None:
    caller = authenticate([("authorization", "Bearer x")])
    assert caller.subject == "anonymous"
    caller.require_organisation("-")
    assert caller.creator("ann") == "ann"
