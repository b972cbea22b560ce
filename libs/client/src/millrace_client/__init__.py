"""The Python SDK and the millrace command."""
