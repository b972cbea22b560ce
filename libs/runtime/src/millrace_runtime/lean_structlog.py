"""structlog without rich, which it loads where it finds it: 5 MB of each service, whose tracebacks are plain.

To be imported before structlog is. Whoever else imports rich has it.
"""

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    # What is None cannot be imported (https://docs.python.org/3/reference/import.html#the-module-cache).
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401 - that is all
    finally:
        del sys.modules["rich"]
