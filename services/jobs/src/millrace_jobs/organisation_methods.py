# ruff: noqa: N802 - the methods have the names of the contract
import millrace_queue
from millrace.jobs.v1 import jobs_service_pb2
from millrace_jobs.limit_messages import check_organisation_limits, organisation_message
from millrace_jobs.servicer_parts import Context, ServicerMethods
from millrace_runtime.identity import Role, current_caller
from millrace_runtime.validation import Violations


class OrganisationMethods(ServicerMethods):
    """The methods by which operators hold the jobs of organisations back."""

    async def GetOrganisation(
        self, request: jobs_service_pb2.GetOrganisationRequest, _context: Context
    ) -> jobs_service_pb2.GetOrganisationResponse:
        """Return how the queue sees an organisation."""
        org_id = _check_organisation(request.org_id, Violations())
        async with self._parts.database.connection() as connection:
            tenant = await millrace_queue.get_tenant(connection, org_id)
        return jobs_service_pb2.GetOrganisationResponse(organisation=organisation_message(org_id, tenant))

    async def PauseOrganisation(
        self, request: jobs_service_pb2.PauseOrganisationRequest, _context: Context
    ) -> jobs_service_pb2.PauseOrganisationResponse:
        """Have no more jobs of an organisation started."""
        org_id = _check_organisation(request.org_id, Violations())
        async with self._parts.database.transaction() as connection:
            await millrace_queue.pause_tenant(connection, org_id)
            tenant = await millrace_queue.get_tenant(connection, org_id)
        return jobs_service_pb2.PauseOrganisationResponse(organisation=organisation_message(org_id, tenant))

    async def ResumeOrganisation(
        self, request: jobs_service_pb2.ResumeOrganisationRequest, _context: Context
    ) -> jobs_service_pb2.ResumeOrganisationResponse:
        """Have jobs of an organisation started again."""
        org_id = _check_organisation(request.org_id, Violations())
        async with self._parts.database.transaction() as connection:
            await millrace_queue.resume_tenant(connection, org_id)
            tenant = await millrace_queue.get_tenant(connection, org_id)
        self._parts.hints.any_jobs_wait()
        return jobs_service_pb2.ResumeOrganisationResponse(organisation=organisation_message(org_id, tenant))

    async def UpdateOrganisationLimits(
        self, request: jobs_service_pb2.UpdateOrganisationLimitsRequest, _context: Context
    ) -> jobs_service_pb2.UpdateOrganisationLimitsResponse:
        """Set the share and the limits of an organisation."""
        violations = Violations()
        limits = check_organisation_limits(request.limits, violations)
        org_id = _check_organisation(request.org_id, violations)
        async with self._parts.database.transaction() as connection:
            await millrace_queue.set_tenant(
                connection, org_id, weight=limits.weight, max_running=limits.max_running, rate=limits.rate
            )
            tenant = await millrace_queue.get_tenant(connection, org_id)
        self._parts.hints.any_jobs_wait()
        return jobs_service_pb2.UpdateOrganisationLimitsResponse(
            organisation=organisation_message(org_id, tenant)
        )


def _check_organisation(org_id: str, violations: Violations) -> str:
    """Return an organisation that an operator may change; `violations` are those of the request's other fields."""
    checked = violations.check_org_id(org_id)
    violations.raise_if_any()
    current_caller().require_role(Role.OPERATOR)
    return checked
