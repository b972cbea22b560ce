"""What the commands that run on the server's side end with, other than 0."""

FAILED = 1
"""Something that was under way has failed; it is logged, or said."""

CANNOT_START = 2
"""Nothing was begun: the settings, or what they name, do not allow it."""
