from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, Self

from millrace_runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class MailServer:
    """The server that sends e-mails: how to reach it, and as whom; `username` None: without logging in."""

    host: str
    port: int = 587
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sender: str = "millrace@localhost"
    tls: Literal["starttls", "tls", "none"] = "starttls"


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """What operators have said of how results are sent.

    Attributes:
        mail_server: the server that sends e-mails; None: there is none.
        allow_private: webhooks may go to private addresses, and to http.
        download_link: where people download a file, with {org_id} and {file_id} in it; None: nobody said.
        subscription_failing: a subscription whose endpoint has failed for so long is disabled.

    """

    mail_server: MailServer | None = None
    allow_private: bool = False
    download_link: str | None = None
    subscription_failing: timedelta = timedelta(hours=24)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take what the process was told when it started."""
        server = settings.smtp_host and MailServer(
            host=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_username,
            password=settings.smtp_password,
            sender=settings.smtp_from,
            tls=settings.smtp_tls,
        )
        return cls(
            server or None,
            settings.webhook_allow_private,
            settings.download_link,
            timedelta(hours=settings.subscription_failing_hours),
        )

    def link_to(self, org_id: str, file_id: str) -> str:
        """Return where a file is to be found: a link, or its id when nobody said how links look."""
        if self.download_link is None:
            return file_id
        return self.download_link.replace("{org_id}", org_id).replace("{file_id}", file_id)
