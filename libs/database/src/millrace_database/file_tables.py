"""The tables of files."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID

from millrace_database.metadata import metadata
from millrace_database.tables import among

_TIME = TIMESTAMP(timezone=True)
_NOW = text("now()")

FILE_STATES = ("temporary", "persistent", "with_job")
UPLOAD_KINDS = ("stream", "presigned")

MEDIA_TYPE = "lower(rtrim(split_part(content_type, ';', 1)))"
"""The media type of a file without its parameters, in lower case."""

# A row stands for an object in the store: the object is written first, the row after it. A row that goes leaves one of
# file_removals, so that its object goes after it.
files = Table(
    "files",
    metadata,
    Column("file_id", UUID, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("object_key", Text, nullable=False, unique=True),
    Column("created_by", Text, nullable=False, server_default=""),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    Column("job_id", UUID),
    # Of what provider keeps objects in buckets; empty: of none.
    Column("bucket", Text, nullable=False, server_default=""),
    # For how long it is kept, and comes back if it is undeleted. Files of older releases are kept.
    Column("state", Text, nullable=False, server_default="persistent"),
    # From then on it is in nobody's sight and may be removed.
    Column("expires_at", _TIME),
    Column("deleted_at", _TIME),
    CheckConstraint("size_bytes >= 0", name="size_bytes"),
    CheckConstraint(among("state", FILE_STATES), name="state"),
    CheckConstraint(
        "(state <> 'temporary' AND deleted_at IS NULL) OR expires_at IS NOT NULL", name="expires_at"
    ),
    CheckConstraint("state <> 'with_job' OR job_id IS NOT NULL", name="with_job"),
    Index("files_by_org", "org_id", text("file_id DESC")),
    Index("files_by_org_creator", "org_id", "created_by", text("file_id DESC")),
    Index("files_by_org_type", "org_id", "content_type", text("file_id DESC")),
    Index("files_by_org_media_type", "org_id", text(MEDIA_TYPE), text("file_id DESC")),
    Index("files_by_org_name", "org_id", text("name text_pattern_ops"), text("file_id DESC")),
    Index(
        "files_by_org_state",
        "org_id",
        "state",
        text("file_id DESC"),
        postgresql_where=text("deleted_at IS NULL"),
    ),
    Index(
        "files_by_org_deleted",
        "org_id",
        text("file_id DESC"),
        postgresql_where=text("deleted_at IS NOT NULL"),
    ),
    Index("files_by_job", "job_id", text("file_id DESC"), postgresql_where=text("job_id IS NOT NULL")),
    Index("files_expiring", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    Index(
        "files_by_org_expiring",
        "org_id",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL AND deleted_at IS NULL"),
    ),
)

# An object that may be in the store without being a file: written before the first byte of it, gone in the transaction that
# makes it a file.
file_uploads = Table(
    "file_uploads",
    metadata,
    Column("upload_id", UUID, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    # As announced; NULL: not.
    Column("size_bytes", BigInteger),
    Column("sha256", Text),
    Column("provider", Text, nullable=False),
    Column("bucket", Text, nullable=False, server_default=""),
    Column("object_key", Text, nullable=False, unique=True),
    Column("created_by", Text, nullable=False, server_default=""),
    Column("temporary", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    # Who streams puts it off while bytes arrive. From then on the upload is given up.
    Column("expires_at", _TIME, nullable=False),
    # The file that a presigned upload became; it stays until its URL is good for nothing.
    Column("file_id", UUID),
    # The presigned upload whose content this is, on its way to its place: it is not given up before that one.
    Column("confirms", UUID),
    CheckConstraint(among("kind", UPLOAD_KINDS), name="kind"),
    CheckConstraint("size_bytes >= 0", name="size_bytes"),
    Index(
        "file_uploads_by_org_newest",
        "org_id",
        text("upload_id DESC"),
        postgresql_where=text("kind = 'presigned' AND file_id IS NULL"),
    ),
    Index(
        "file_uploads_by_org_creator",
        "org_id",
        "created_by",
        text("upload_id DESC"),
        postgresql_where=text("kind = 'presigned' AND file_id IS NULL"),
    ),
    Index("file_uploads_expiring", "expires_at"),
)

# Objects that are to go: nobody knows them any more but this table.
file_removals = Table(
    "file_removals",
    metadata,
    Column("object_key", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("bucket", Text, primary_key=True, server_default=""),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    Column("requested_at", _TIME, nullable=False, server_default=_NOW),
    # Not tried before then.
    Column("due_at", _TIME, nullable=False, server_default=_NOW),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Index("file_removals_due", "due_at"),
    # The names of folders are in the keys: what is taken together lies together.
    Index("file_removals_new", "object_key", postgresql_where=text("attempts = 0")),
)

# What an organisation's files take up, deleted ones left out, and what they may: NULL as the server says, 0 without limit. It
# changes in the transaction that changes the files, whose lock it is.
file_usage = Table(
    "file_usage",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("total_bytes", BigInteger, nullable=False, server_default="0"),
    Column("files", BigInteger, nullable=False, server_default="0"),
    Column("max_total_bytes", BigInteger),
    Column("max_files", BigInteger),
    Column("max_file_bytes", BigInteger),
    CheckConstraint("max_total_bytes >= 0 AND max_files >= 0 AND max_file_bytes >= 0", name="limits"),
    postgresql_with={"fillfactor": 50},
)
