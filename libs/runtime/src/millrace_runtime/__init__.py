"""What every Millrace service shares: settings, logs, and the life cycle of a gRPC server."""
