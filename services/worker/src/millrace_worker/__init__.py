"""The Worker service: the registry of handlers, and their execution."""
