"""What every Millrace service shares: settings, logs, and the life cycle of a gRPC server."""

import millrace_runtime.lean_structlog  # noqa: F401 - before anything imports structlog
