"""The masks of requests that change a resource."""

import re
from collections.abc import Collection

from google.protobuf.descriptor import Descriptor
from google.protobuf.field_mask_pb2 import FieldMask

from millrace_runtime.validation import Violations

_MAX_SHOWN = 100


def check_mask(
    mask: FieldMask, changeable: Collection[str], resource: Descriptor, violations: Violations
) -> frozenset[str]:
    """Return which of the `changeable` fields of a resource the required field `update_mask` names.

    What is wrong with it is added to `violations`.
    """
    violations.require("update_mask", mask.paths)
    for path in dict.fromkeys(mask.paths):
        if path in changeable:
            continue
        problem = (
            "cannot be changed"
            if path in resource.fields_by_name
            else f"is no field of a {_words(resource.name)}, as a whole"
        )
        violations.add("update_mask", f"{path[:_MAX_SHOWN]!r} {problem}")
    return frozenset(mask.paths).intersection(changeable)


def _words(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()
