"""Texts with variables, such as "{{schedule_name}}: {{status}}"."""

import re
from collections.abc import Collection, Mapping

# No name goes beyond the next "{{": each part of a text is looked at once, however many braces it has.
_VARIABLE = re.compile(r"\{\{((?:(?!\{\{).)*?)\}\}", re.DOTALL)


def unknown_variables_of(template: str, known: Collection[str]) -> list[str]:
    """Return the variables of a template that are not among the `known` ones, in their order."""
    return [name for name in map(str.strip, _VARIABLE.findall(template)) if name not in known]


def render_template(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its variables replaced; one without a value becomes an empty text.

    What stands in the values is taken as it is: no variable in it is replaced.
    """
    return _VARIABLE.sub(lambda found: values.get(found[1].strip(), ""), template)
