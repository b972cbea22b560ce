# ruff: noqa: N802 - the methods have the names of the contract
from millrace.files.v1 import files_service_pb2
from millrace_database.file_usage_repository import LIMIT_NAMES, LimitName
from millrace_jobs.file_messages import usage_message
from millrace_jobs.file_methods import FileMethods
from millrace_jobs.servicer_parts import Context
from millrace_runtime.field_masks import check_mask
from millrace_runtime.identity import Role, current_caller
from millrace_runtime.validation import Violations


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
        """Set limits of an organisation: those that the mask names, or all."""
        violations = Violations()
        org_id = violations.check_org_id(request.org_id)
        changes = _check_limits(request, violations)
        violations.raise_if_any()
        current_caller().require_role(Role.OPERATOR)
        usage = await self._store.set_limits(org_id, changes)
        return files_service_pb2.UpdateFileLimitsResponse(usage=usage_message(usage))


def _check_limits(
    request: files_service_pb2.UpdateFileLimitsRequest, violations: Violations
) -> dict[LimitName, int | None]:
    """Return the limits that are to be set; None: as the server says."""
    limits = request.limits
    if not request.HasField("limits"):
        violations.add("limits", "is required")
    paths = (
        check_mask(request.update_mask, LIMIT_NAMES, limits.DESCRIPTOR, violations)
        if request.update_mask.paths
        else LIMIT_NAMES
    )
    for name in LIMIT_NAMES:
        if getattr(limits, name) < 0:
            violations.add(f"limits.{name}", "must not be negative")
    return {
        name: getattr(limits, name) if limits.HasField(name) else None
        for name in LIMIT_NAMES
        if name in paths
    }
