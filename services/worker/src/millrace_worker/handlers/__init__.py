"""The job types that Millrace brings along; importing this package registers their handlers."""

from millrace_worker.handlers import (
    deliver_email,
    deliver_event,
    deliver_notice,
    deliver_storage,
    deliver_webhook,
    files_archive,
    imports_load,
    reports_generate,
)

__all__ = [
    "deliver_email",
    "deliver_event",
    "deliver_notice",
    "deliver_storage",
    "deliver_webhook",
    "files_archive",
    "imports_load",
    "reports_generate",
]
