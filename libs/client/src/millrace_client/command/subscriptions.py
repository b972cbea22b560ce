"""`millrace subscriptions`."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from millrace_client.client import Millrace
from millrace_client.command import parse
from millrace_client.command.global_options import accept_global_options
from millrace_client.command.output import Columns, Output, one_more
from millrace_client.command.register import command
from millrace_client.subscription import Subscription, SubscriptionState

app = typer.Typer(help="Have the events of jobs posted to a URL.", no_args_is_help=True, add_completion=False)
accept_global_options(app)

SubscriptionId = Annotated[
    str,
    typer.Argument(
        metavar="SUBSCRIPTION_ID",
        help="The subscription, as `millrace subscriptions list` names it: subscription_…",
    ),
]
EventsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        metavar="EVENT",
        help="job.completed, job.failed, job.cancelled or subscription.disabled; several when repeated.",
    ),
]
JobTypesOption = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Only of jobs of this type; of several when repeated."),
]
NotifyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--notify",
        metavar="ADDRESS",
        help="Whom to mail when it is disabled; all of them when repeated.",
    ),
]
SecretOption = Annotated[
    str | None,
    typer.Option(
        parser=parse.text_content,
        metavar="SECRET",
        help="What events are signed with: whsec_…; @FILE or @- reads it. Generated and shown when not given.",
    ),
]


class Clearable(StrEnum):
    """What a subscription can be without."""

    TYPES = "TYPES"
    NOTIFY = "NOTIFY"
    DESCRIPTION = "DESCRIPTION"


_UNSET: dict[Clearable, dict[str, Any]] = {
    Clearable.TYPES: {"job_types": []},
    Clearable.NOTIFY: {"notify_emails": []},
    Clearable.DESCRIPTION: {"description": ""},
}


_COLUMNS: Columns[Subscription] = {
    "SUBSCRIPTION ID": lambda subscription: subscription.subscription_id,
    "URL": lambda subscription: subscription.url,
    "EVENTS": lambda subscription: ", ".join(subscription.event_types),
    "STATE": lambda subscription: subscription.state,
    "FAILING SINCE": lambda subscription: subscription.failing_since,
    "LAST SUCCESS": lambda subscription: subscription.last_success_at,
}


@command(app, "create")
async def create(
    client: Millrace,
    output: Output,
    *,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where events are posted.")],
    event_types: EventsOption = None,
    job_types: JobTypesOption = None,
    description: Annotated[str, typer.Option(help="A text for people.")] = "",
    notify_emails: NotifyOption = None,
    secret: SecretOption = None,
    created_by: Annotated[str, typer.Option(help="For whom it is created.")] = "",
    request_id: Annotated[
        str | None,
        typer.Option(
            help="Makes a repeated command return the subscription of the first one, without its secret."
        ),
    ] = None,
) -> None:
    """Create a subscription."""
    if not event_types:
        raise typer.BadParameter("give at least one", param_hint="--event")
    subscription = await client.subscriptions.create(
        url,
        event_types,
        job_types=job_types or (),
        description=description,
        notify_emails=notify_emails or (),
        secret=secret,
        created_by=created_by,
        request_id=request_id,
    )
    output.show(subscription)


@command(app, "list")
async def list_subscriptions(
    client: Millrace,
    output: Output,
    *,
    states: Annotated[
        list[SubscriptionState] | None,
        typer.Option(
            "--state",
            parser=parse.member(SubscriptionState),
            metavar="STATE",
            help="Those in this state: enabled, paused or disabled; in any of them when repeated.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
) -> None:
    """List subscriptions, newest first."""
    await output.table(_COLUMNS, client.subscriptions.list(states=states or (), limit=one_more(limit)), limit)


@command(app, "show")
@command(app, "get")
async def show(client: Millrace, output: Output, subscription_id: SubscriptionId) -> None:
    """Show a subscription, and how its deliveries go; show and get are the same."""
    output.show(await client.subscriptions.get(subscription_id))


@command(app, "update")
async def update(
    client: Millrace,
    output: Output,
    *,
    subscription_id: SubscriptionId,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Where events are posted.")] = None,
    event_types: EventsOption = None,
    job_types: JobTypesOption = None,
    description: Annotated[str | None, typer.Option(help="A text for people.")] = None,
    notify_emails: NotifyOption = None,
    clear: Annotated[
        list[Clearable] | None,
        typer.Option(
            parser=parse.member(Clearable),
            metavar="WHAT",
            help="Unset it: types, notify or description; several when repeated.",
        ),
    ] = None,
    if_version: Annotated[
        int | None,
        typer.Option(min=1, help="Only if the subscription still has this version; else nothing is changed."),
    ] = None,
) -> None:
    """Change what is given of a subscription, and leave the rest."""
    given = {
        "url": url,
        "event_types": event_types or None,
        "job_types": job_types or None,
        "description": description,
        "notify_emails": notify_emails or None,
    }
    changes: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    for what in set(clear or ()):
        if not changes.keys().isdisjoint(_UNSET[what]):
            raise typer.BadParameter("the same thing is to be set and unset", param_hint="--clear")
        changes |= _UNSET[what]
    if not changes:
        raise typer.BadParameter("give something to change")
    output.show(await client.subscriptions.update(subscription_id, version=if_version, **changes))


@command(app, "delete")
async def delete(client: Millrace, output: Output, subscription_id: SubscriptionId) -> None:
    """Delete a subscription; events that wait to be sent are not."""
    await client.subscriptions.delete(subscription_id)
    if not output.as_json:
        output.text(f"deleted {subscription_id}")


@command(app, "pause")
async def pause(client: Millrace, output: Output, subscription_id: SubscriptionId) -> None:
    """Switch a subscription off; what happens meanwhile is not sent later."""
    output.show(await client.subscriptions.pause(subscription_id))


@command(app, "resume")
async def resume(client: Millrace, output: Output, subscription_id: SubscriptionId) -> None:
    """Switch a paused or disabled subscription on again."""
    output.show(await client.subscriptions.resume(subscription_id))


@command(app, "rotate-secret")
async def rotate_secret(
    client: Millrace, output: Output, *, subscription_id: SubscriptionId, secret: SecretOption = None
) -> None:
    """Give a subscription another secret; for 24 hours the one before signs too."""
    output.show(await client.subscriptions.rotate_secret(subscription_id, secret))


@command(app, "test")
async def test(client: Millrace, output: Output, subscription_id: SubscriptionId) -> None:
    """Send an event of type subscription.test, and show the job that does."""
    job_id = await client.subscriptions.test(subscription_id)
    if output.as_json:
        output.line({"jobId": job_id})
    else:
        output.text(job_id)
