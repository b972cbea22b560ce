# ruff: noqa: N802 - the methods have the names of the contract
from typing import Literal, TypeAlias

from millrace.files.v1 import files_service_pb2
from millrace_jobs.file_messages import usage_message
from millrace_jobs.file_methods import FileMethods
from millrace_jobs.servicer_parts import Context
from millrace_runtime.identity import Role, current_caller
from millrace_runtime.validation import Violations

_Limit: TypeAlias = Literal["max_total_bytes", "max_files", "max_file_bytes"]

_LIMITS: tuple[_Limit, ...] = ("max_total_bytes", "max_files", "max_file_bytes")


class FileUsageMethods(FileMethods):
    """The methods about what the files of organisations take up."""

    async def GetFileUsage(
        self, request: files_service_pb2.GetFileUsageRequest, _context: Context
    ) -> files_service_pb2.GetFileUsageResponse:
        """Return what the files of an organisation take up, and what they may."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        violations.raise_if_any()
        current_caller().require_organisation(org_id)
        return files_service_pb2.GetFileUsageResponse(usage=usage_message(await self._store.usage(org_id)))

    async def UpdateFileLimits(
        self, request: files_service_pb2.UpdateFileLimitsRequest, _context: Context
    ) -> files_service_pb2.UpdateFileLimitsResponse:
        """Set the limits of an organisation, all of them."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        limits = _check_limits(request, violations)
        violations.raise_if_any()
        current_caller().require_role(Role.OPERATOR)
        usage = await self._store.set_limits(org_id, *(limits[name] for name in _LIMITS))
        return files_service_pb2.UpdateFileLimitsResponse(usage=usage_message(usage))


def _check_limits(
    request: files_service_pb2.UpdateFileLimitsRequest, violations: Violations
) -> dict[_Limit, int | None]:
    """Return each limit; None: as the server says."""
    if not request.HasField("limits"):
        violations.add("limits", "is required")
    limits: dict[_Limit, int | None] = {}
    for name in _LIMITS:
        limits[name] = getattr(request.limits, name) if request.limits.HasField(name) else None
        if getattr(request.limits, name) < 0:
            violations.add(f"limits.{name}", "must not be negative")
    return limits
