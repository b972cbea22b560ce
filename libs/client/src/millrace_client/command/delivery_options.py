"""The options that say what is done with the results of a schedule's jobs."""

from dataclasses import dataclass
from typing import Annotated

import typer

from millrace_client.command import parse
from millrace_client.delivery import (
    Delivery,
    DownloadDelivery,
    EmailDelivery,
    StorageDelivery,
    WebhookDelivery,
)

_PANEL = "What is done with results (one of --download, --webhook, --email, --store)"


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """What is done with results; None or False for what is not given."""

    download: Annotated[
        bool, typer.Option("--download", help="People download them.", rich_help_panel=_PANEL)
    ] = False
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="They are posted to this address.", rich_help_panel=_PANEL),
    ] = None
    webhook_secret: Annotated[
        str | None,
        typer.Option(
            parser=parse.text_content,
            metavar="SECRET",
            help="What posts are signed with: whsec_…; @FILE or @- reads it.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    email: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="They are mailed; to all of them when repeated.", rich_help_panel=_PANEL
        ),
    ] = None
    email_subject: Annotated[
        str | None,
        typer.Option(help='Such as "{{schedule_name}}: {{status}}".', rich_help_panel=_PANEL),
    ] = None
    email_body: Annotated[
        str | None,
        typer.Option(
            parser=parse.text_content,
            metavar="TEXT",
            help="With variables as in the subject; @FILE or @- reads it.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    email_attach: Annotated[
        bool,
        typer.Option("--email-attach", help="Attach the file, up to 10 MiB.", rich_help_panel=_PANEL),
    ] = False
    store: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help='Files are kept there: "reports/{{scheduled_date}}/{{file_name}}".',
            rich_help_panel=_PANEL,
        ),
    ] = None
    deliver_failures: Annotated[
        bool,
        typer.Option("--deliver-failures", help="Also when a job failed for good.", rich_help_panel=_PANEL),
    ] = False

    def delivery(self) -> Delivery | None:
        """Return the delivery that is given, if any; typer.BadParameter for options that do not go together."""
        if self.webhook is None and self.webhook_secret is not None:
            raise typer.BadParameter("is needed by --webhook-secret", param_hint="--webhook")
        if not self.email and (self.email_attach or (self.email_subject, self.email_body) != (None, None)):
            raise typer.BadParameter(
                "is needed by the options that say more about e-mails", param_hint="--email"
            )
        given = [
            delivery
            for delivery in (self._download(), self._webhook(), self._email(), self._storage())
            if delivery is not None
        ]
        if len(given) > 1:
            raise typer.BadParameter("give at most one of --download, --webhook, --email, --store")
        if self.deliver_failures and not given:
            raise typer.BadParameter("is of use with --webhook or --email", param_hint="--deliver-failures")
        return given[0] if given else None

    def _download(self) -> Delivery | None:
        return DownloadDelivery(on_failure=self.deliver_failures) if self.download else None

    def _webhook(self) -> Delivery | None:
        if self.webhook is None:
            return None
        return WebhookDelivery(self.webhook, self.webhook_secret, on_failure=self.deliver_failures)

    def _email(self) -> Delivery | None:
        if not self.email:
            return None
        return EmailDelivery(
            self.email,
            self.email_subject or "",
            self.email_body or "",
            self.email_attach,
            on_failure=self.deliver_failures,
        )

    def _storage(self) -> Delivery | None:
        return None if self.store is None else StorageDelivery(self.store, on_failure=self.deliver_failures)
