from uuid import UUID

from millrace_runtime.identity import current_caller
from millrace_runtime.validation import Violations


def check_key(
    kind: str, org_id: str, resource_id: str, violations: Violations | None = None
) -> tuple[str, UUID]:
    """Check the two fields that name one resource, `org_id` and `<kind>_id`, and that the caller may act there.

    `violations` are those of the request's other fields, reported along. Raises InvalidArgument or PermissionDenied.
    """
    violations = Violations() if violations is None else violations
    organisation = violations.check_org_id(org_id)
    key = violations.check_id(f"{kind}_id", resource_id, kind)
    violations.raise_if_any()
    current_caller().require_organisation(organisation)
    return organisation, key
