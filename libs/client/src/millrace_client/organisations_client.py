"""The organisations of an installation, as the queue sees them."""
# ruff: noqa: ASYNC109 - a timeout goes to the server as the call's deadline

from millrace.jobs.v1 import jobs_service_pb2 as messages
from millrace_client.connection import Connection
from millrace_client.limits import (
    OrganisationLimits,
    OrganisationSettings,
    read_organisation,
    to_organisation_limits,
)


class OrganisationsClient:
    """Calls to the Jobs service about organisations; they are for operators.

    Every method raises a CallError of the status that the server answered with. An organisation that nobody ever
    set anything for has the ordinary values. What is changed holds within 2 seconds on all workers; jobs that run
    go on.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, org_id: str, *, timeout: float | None = None) -> OrganisationSettings:
        """Return how the queue sees an organisation."""
        request = messages.GetOrganisationRequest(org_id=org_id)
        response = await self._connection.call(self._connection.jobs.GetOrganisation, request, timeout)
        return read_organisation(response.organisation)

    async def pause(self, org_id: str, *, timeout: float | None = None) -> OrganisationSettings:
        """Start no more jobs of an organisation, of any type."""
        request = messages.PauseOrganisationRequest(org_id=org_id)
        response = await self._connection.call(self._connection.jobs.PauseOrganisation, request, timeout)
        return read_organisation(response.organisation)

    async def resume(self, org_id: str, *, timeout: float | None = None) -> OrganisationSettings:
        """Start jobs of an organisation again."""
        request = messages.ResumeOrganisationRequest(org_id=org_id)
        response = await self._connection.call(self._connection.jobs.ResumeOrganisation, request, timeout)
        return read_organisation(response.organisation)

    async def set_limits(
        self, org_id: str, limits: OrganisationLimits, *, timeout: float | None = None
    ) -> OrganisationSettings:
        """Set the share and all limits of an organisation at once."""
        request = messages.UpdateOrganisationLimitsRequest(
            org_id=org_id, limits=to_organisation_limits(limits)
        )
        response = await self._connection.call(
            self._connection.jobs.UpdateOrganisationLimits, request, timeout
        )
        return read_organisation(response.organisation)
