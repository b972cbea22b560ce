"""Who lost workers were, as long as jobs of theirs may have to be taken back."""

from alembic import op

from millrace_queue.schema_version_4 import VERSION_4

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    for statement in VERSION_4:
        op.execute(statement)
