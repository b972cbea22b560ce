"""Jobs are looked up by their ids in the primary key only, even by plans made when the tables were empty."""

import sqlalchemy as sa
from alembic import op

from millrace_database.migrations.table_locks import lock_tables

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NEWEST_FIRST = sa.text("job_id DESC")
_INDEXES: dict[str, list[str | sa.TextClause]] = {
    "jobs_by_org": ["org_id", _NEWEST_FIRST],
    "jobs_by_org_type": ["org_id", "type", _NEWEST_FIRST],
    "jobs_by_org_creator": ["org_id", "created_by", _NEWEST_FIRST],
}


def upgrade() -> None:
    """Apply the migration."""
    lock_tables("jobs")
    # Implied by any condition on the organisation, so that older releases list by them as before. Only their lists of what
    # waits by who created it have a condition without it, and read more meanwhile.
    with_org = sa.text("org_id IS NOT NULL")
    for name, columns in _INDEXES.items():
        op.create_index(f"{name}_new", "jobs", columns, postgresql_where=with_org)
        op.drop_index(name, "jobs")
        op.execute(f"ALTER INDEX {name}_new RENAME TO {name}")
