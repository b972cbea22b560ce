"""Subscriptions to the events of jobs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP, UUID

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TIME = TIMESTAMP(timezone=True)
_NOW = sa.text("now()")
_NONE = sa.text("'{}'")


def upgrade() -> None:
    """Apply the migration."""
    op.create_table(
        "job_subscriptions",
        sa.Column("subscription_id", UUID, primary_key=True),
        sa.Column("org_id", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("previous_secret", sa.Text),
        sa.Column("previous_secret_until", _TIME),
        sa.Column("event_types", ARRAY(sa.Text), nullable=False),
        sa.Column("job_types", ARRAY(sa.Text), nullable=False, server_default=_NONE),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.Column("notify_emails", ARRAY(sa.Text), nullable=False, server_default=_NONE),
        sa.Column("state", sa.Text, nullable=False, server_default="enabled"),
        sa.Column("disabled_reason", sa.Text, nullable=False, server_default=""),
        sa.Column("disabled_at", _TIME),
        sa.Column("failing_since", _TIME),
        sa.Column("failed_attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text, nullable=False, server_default=""),
        sa.Column("last_failure_at", _TIME),
        sa.Column("last_success_at", _TIME),
        sa.Column("created_by", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("request_id", sa.Text),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
        sa.CheckConstraint("state IN ('enabled', 'paused', 'disabled')", name="state"),
        sa.CheckConstraint("(state = 'disabled') = (disabled_at IS NOT NULL)", name="disabled_at"),
        sa.CheckConstraint("cardinality(event_types) > 0", name="event_types"),
        postgresql_with={
            "fillfactor": 50,
            "autovacuum_vacuum_threshold": 200,
            "autovacuum_vacuum_scale_factor": 0.02,
        },
    )
    _create_indexes()


def _create_indexes() -> None:
    op.create_index(
        "job_subscriptions_by_org", "job_subscriptions", ["org_id", sa.text("subscription_id DESC")]
    )
    op.create_index(
        "job_subscriptions_enabled",
        "job_subscriptions",
        ["org_id"],
        postgresql_where=sa.text("state = 'enabled'"),
    )
    op.create_index(
        "job_subscriptions_failing",
        "job_subscriptions",
        ["failing_since"],
        postgresql_where=sa.text("state = 'enabled' AND failing_since IS NOT NULL"),
    )
    op.create_index(
        "job_subscriptions_request_id",
        "job_subscriptions",
        ["org_id", "request_id"],
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
