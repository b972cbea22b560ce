"""The table of subscriptions."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP, UUID

from millrace_database.metadata import metadata
from millrace_database.tables import among

_TIME = TIMESTAMP(timezone=True)
_NOW = text("now()")
_NONE = text("'{}'")

SUBSCRIPTION_STATES = ("enabled", "paused", "disabled")

# Which events of an organisation's jobs are posted where.
job_subscriptions = Table(
    "job_subscriptions",
    metadata,
    Column("subscription_id", UUID, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("url", Text, nullable=False),
    # For no answer, no log and no job's input.
    Column("secret", Text, nullable=False),
    Column("previous_secret", Text),
    Column("previous_secret_until", _TIME),
    Column("event_types", ARRAY(Text), nullable=False),
    Column("job_types", ARRAY(Text), nullable=False, server_default=_NONE),
    Column("description", Text, nullable=False, server_default=""),
    Column("notify_emails", ARRAY(Text), nullable=False, server_default=_NONE),
    Column("state", Text, nullable=False, server_default="enabled"),
    Column("disabled_reason", Text, nullable=False, server_default=""),
    Column("disabled_at", _TIME),
    Column("failing_since", _TIME),
    Column("failed_attempts", Integer, nullable=False, server_default="0"),
    Column("last_error", Text, nullable=False, server_default=""),
    Column("last_failure_at", _TIME),
    Column("last_success_at", _TIME),
    Column("created_by", Text, nullable=False, server_default=""),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    Column("request_id", Text),
    Column("version", BigInteger, nullable=False, server_default="1"),
    CheckConstraint(among("state", SUBSCRIPTION_STATES), name="state"),
    CheckConstraint("(state = 'disabled') = (disabled_at IS NOT NULL)", name="disabled_at"),
    CheckConstraint("cardinality(event_types) > 0", name="event_types"),
    Index("job_subscriptions_by_org", "org_id", text("subscription_id DESC")),
    # Looked into for each job that ends.
    Index("job_subscriptions_enabled", "org_id", postgresql_where=text("state = 'enabled'")),
    Index(
        "job_subscriptions_failing",
        "failing_since",
        postgresql_where=text("state = 'enabled' AND failing_since IS NOT NULL"),
    ),
    Index(
        "job_subscriptions_request_id",
        "org_id",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
    postgresql_with={
        "fillfactor": 50,
        "autovacuum_vacuum_threshold": 200,
        "autovacuum_vacuum_scale_factor": 0.02,
    },
)
