"""The job types that Millrace brings along; importing this package registers their handlers."""

from millrace_worker.handlers import files_archive, imports_load, reports_generate

__all__ = ["files_archive", "imports_load", "reports_generate"]
