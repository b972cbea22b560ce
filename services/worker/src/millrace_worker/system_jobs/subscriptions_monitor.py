from datetime import timedelta

from millrace_database.ids import format_id
from millrace_database.subscription_health import disable_failing
from millrace_worker import SystemContext, system_schedule

_BATCH = 100


@system_schedule("subscriptions:monitor", "*/5 * * * *", time_zone="UTC", timeout=timedelta(minutes=10))
async def monitor_subscriptions(context: SystemContext) -> None:
    """Disable subscriptions whose endpoints have kept failing, and tell their organisations."""
    resources = context.resources
    is_last = False
    while not is_last:
        async with resources.database.transaction() as connection:
            disabled, created = await disable_failing(
                connection, resources.delivery.subscription_failing, limit=_BATCH
            )
        if created:
            resources.jobs_created(created)
        for subscription in disabled:
            context.log.warning(
                "subscription disabled",
                org_id=subscription.org_id,
                subscription_id=format_id("subscription", subscription.subscription_id),
                reason=subscription.disabled_reason,
                notified=len(subscription.notify_emails),
            )
        is_last = len(disabled) < _BATCH
