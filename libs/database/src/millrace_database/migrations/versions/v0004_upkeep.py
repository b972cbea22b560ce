"""Removal of what is kept no longer, counts of what begins and ends, and vacuum settings of tables that are written often."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import INTERVAL, TIMESTAMP, UUID

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Apply the migration."""
    _create_retention_sweeps()
    _create_job_flow()
    op.create_index(
        "dataset_imports_unfinished",
        "dataset_imports",
        ["job_id"],
        postgresql_where=sa.text("completed_at IS NULL"),
    )
    _tune_storage()


def _create_retention_sweeps() -> None:
    op.create_table(
        "retention_sweeps",
        sa.Column("age", INTERVAL, primary_key=True),
        sa.Column(
            "position",
            UUID,
            nullable=False,
            server_default=sa.text("'00000000-0000-0000-0000-000000000000'"),
        ),
        sa.Column("next_at", _TIME, nullable=False, server_default=sa.text("now()")),
        postgresql_with={
            "fillfactor": 50,
            "autovacuum_vacuum_scale_factor": 0,
            "autovacuum_vacuum_threshold": 200,
            "vacuum_truncate": "off",
        },
    )


def _create_job_flow() -> None:
    op.create_table(
        "job_flow",
        sa.Column("bucket", _TIME, primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("org_id", sa.Text, primary_key=True),
        sa.Column("source", UUID, primary_key=True),
        sa.Column("created", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("finished", sa.BigInteger, nullable=False, server_default="0"),
        prefixes=["UNLOGGED"],
        postgresql_with={
            "fillfactor": 50,
            "autovacuum_vacuum_scale_factor": 0.1,
            "autovacuum_vacuum_threshold": 1000,
            "vacuum_truncate": "off",
        },
    )


def _tune_storage() -> None:
    op.execute(
        """
        ALTER TABLE job_attempts SET (
            autovacuum_vacuum_scale_factor = 0.05,
            autovacuum_vacuum_threshold = 5000,
            autovacuum_vacuum_insert_scale_factor = 0.05,
            autovacuum_analyze_scale_factor = 0.05,
            autovacuum_analyze_threshold = 1000,
            vacuum_truncate = off
        )
        """
    )
    op.execute(
        """
        ALTER TABLE scheduled_jobs SET (
            fillfactor = 70,
            autovacuum_vacuum_scale_factor = 0.05,
            autovacuum_vacuum_threshold = 500,
            vacuum_truncate = off
        )
        """
    )
