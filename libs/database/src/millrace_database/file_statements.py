"""The SQL of files, of uploads on their way to become files, of objects that are to go, and of what files take up.

Who changes several of these rows locks them in this order: the entry of a job, uploads, files, and last the usage of the
organisation, which everybody shares.
"""

_COLUMNS = """file_id, org_id, name, content_type, size_bytes, sha256, provider, object_key, created_by, created_at, job_id,
    bucket, state, expires_at, deleted_at"""

# Of a deleted file too there is a time from which on nobody sees it.
_SEEN = "(expires_at IS NULL OR expires_at > now())"

GET_FILE = f"""
SELECT {_COLUMNS} FROM files WHERE file_id = $1::uuid AND org_id = $2::text AND {_SEEN}
"""  # noqa: S608 - put together of constants

PERSIST_FILE = f"""
UPDATE files SET state = 'persistent', expires_at = NULL
WHERE file_id = $1::uuid AND org_id = $2::text AND deleted_at IS NULL AND {_SEEN}
RETURNING {_COLUMNS}
"""  # noqa: S608 - put together of constants

# $3 for how long it can be undeleted. Files that older releases add are not counted before the daily maintenance does it.
DELETE_FILE = f"""
WITH deleted AS (
    UPDATE files SET deleted_at = now(), expires_at = now() + $3::interval
    WHERE file_id = $1::uuid AND org_id = $2::text AND deleted_at IS NULL AND {_SEEN}
    RETURNING {_COLUMNS}
),
counted AS (
    UPDATE file_usage SET total_bytes = greatest(total_bytes - deleted.size_bytes, 0), files = greatest(files - 1, 0)
    FROM deleted WHERE file_usage.org_id = deleted.org_id
)
SELECT {_COLUMNS} FROM deleted
"""  # noqa: S608 - put together of constants

# $3 for how long a temporary file is kept. It is not counted yet.
UNDELETE_FILE = f"""
UPDATE files
SET deleted_at = NULL, expires_at = CASE WHEN state = 'temporary' THEN now() + $3::interval END
WHERE file_id = $1::uuid AND org_id = $2::text AND deleted_at IS NOT NULL AND {_SEEN}
RETURNING {_COLUMNS}
"""  # noqa: S608 - put together of constants

REMOVE_FILE = f"""
WITH gone AS (
    DELETE FROM files WHERE file_id = $1::uuid AND org_id = $2::text AND {_SEEN}
    RETURNING org_id, size_bytes, deleted_at, provider, bucket, object_key
),
counted AS (
    UPDATE file_usage SET total_bytes = greatest(total_bytes - gone.size_bytes, 0), files = greatest(files - 1, 0)
    FROM gone WHERE file_usage.org_id = gone.org_id AND gone.deleted_at IS NULL
),
removed AS (
    INSERT INTO file_removals (object_key, provider, bucket, size_bytes)
    SELECT object_key, provider, bucket, size_bytes FROM gone
    ON CONFLICT DO NOTHING
)
SELECT provider, bucket, object_key FROM gone
"""  # noqa: S608 - put together of constants

IS_FILE = "SELECT EXISTS (SELECT FROM files WHERE object_key = $1::text)"

# $14 for how long. A row that is there already stays as it is.
ADD_UPLOAD = """
INSERT INTO file_uploads (
    upload_id, org_id, kind, name, content_type, size_bytes, sha256, provider, bucket, object_key, created_by, temporary,
    confirms, expires_at
)
VALUES (
    $1::uuid, $2::text, $3::text, $4::text, $5::text, $6::bigint, $7::text, $8::text, $9::text, $10::text, $11::text,
    $12::boolean, $13::uuid, now() + $14::interval
)
ON CONFLICT (upload_id) DO NOTHING
RETURNING expires_at
"""

# A stream that has been set aside expired at the epoch, so that whoever had it can neither go on with it nor finish it.
PUT_OFF_EXPIRY = """
UPDATE file_uploads SET expires_at = now() + $3::interval
WHERE upload_id = $1::uuid AND object_key = $2::text AND kind = 'stream' AND expires_at > 'epoch'
RETURNING true
"""

SET_ASIDE = """
UPDATE file_uploads SET expires_at = 'epoch'
WHERE upload_id = $1::uuid AND object_key = $2::text AND kind = 'stream'
RETURNING true
"""

SET_EXPIRED_ASIDE = """
UPDATE file_uploads SET expires_at = 'epoch'
WHERE upload_id = $1::uuid AND kind = 'stream' AND expires_at <= now()
RETURNING provider, bucket, object_key
"""

# $3 the id of the file.
FINISH_UPLOAD = f"""
WITH finished AS (
    DELETE FROM file_uploads
    WHERE upload_id = $1::uuid AND object_key = $2::text AND kind = 'stream' AND expires_at > 'epoch'
    RETURNING org_id, name, provider, bucket, object_key, created_by
)
INSERT INTO files (
    file_id, org_id, name, content_type, size_bytes, sha256, provider, bucket, object_key, created_by, job_id, state,
    expires_at
)
SELECT
    $3::uuid, org_id, name, $4::text, $5::bigint, $6::text, provider, bucket, object_key, created_by, $7::uuid, $8::text,
    CASE WHEN $8::text = 'temporary' THEN now() + $9::interval END
FROM finished
RETURNING {_COLUMNS}
"""  # noqa: S608 - put together of constants

# Whatever was announced: of what lies there nothing is known, which 0 stands for.
_REMOVE_GONE = """
removed AS (
    INSERT INTO file_removals (object_key, provider, bucket, due_at)
    SELECT object_key, provider, bucket, due_at FROM gone
    ON CONFLICT DO NOTHING
)
SELECT provider, bucket, object_key FROM gone
"""

GIVE_UPLOAD_UP = f"""
WITH gone AS (
    DELETE FROM file_uploads WHERE upload_id = $1::uuid AND object_key = $2::text AND kind = 'stream'
    RETURNING provider, bucket, object_key, now() AS due_at
),
{_REMOVE_GONE}
"""  # noqa: S608 - put together of constants

# Its URL is good for some time yet: what is sent there later goes too.
CANCEL_PRESIGNED = f"""
WITH gone AS (
    DELETE FROM file_uploads
    WHERE upload_id = $1::uuid AND org_id = $2::text AND kind = 'presigned' AND file_id IS NULL
    RETURNING provider, bucket, object_key, expires_at + interval '1 hour' AS due_at
),
{_REMOVE_GONE}
"""  # noqa: S608 - put together of constants

_PRESIGNED = """
SELECT
    upload_id, org_id, name, content_type, size_bytes, sha256, provider, bucket, object_key, created_by, temporary, file_id,
    expires_at > now() AS is_open
FROM file_uploads
WHERE upload_id = $1::uuid AND org_id = $2::text AND kind = 'presigned'
"""

GET_PRESIGNED = _PRESIGNED

LOCK_PRESIGNED = f"{_PRESIGNED} FOR UPDATE"

CONFIRM_PRESIGNED = "UPDATE file_uploads SET file_id = $2::uuid WHERE upload_id = $1::uuid"

OPEN_PRESIGNED = """
SELECT count(*) AS uploads, coalesce(sum(size_bytes), 0)::bigint AS total_bytes
FROM file_uploads
WHERE org_id = $1::text AND kind = 'presigned' AND file_id IS NULL AND expires_at > now()
"""

# $1 the organisation, an array so that no planner reads the uploads of all in the order of their ids; $2 the last id of the page
# before; $3 how many.
_LIST_OPEN = """
SELECT upload_id, org_id, name, content_type, size_bytes, sha256, created_by, temporary, created_at, expires_at
FROM file_uploads
WHERE org_id = ANY ($1::text[]) AND kind = 'presigned' AND file_id IS NULL AND expires_at > now()
    AND upload_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
"""

LIST_OPEN = f"{_LIST_OPEN} ORDER BY org_id, upload_id DESC LIMIT $3::integer"

LIST_OPEN_OF_CREATOR = f"""
{_LIST_OPEN} AND created_by = ANY ($4::text[]) ORDER BY org_id, created_by, upload_id DESC LIMIT $3::integer
"""

ADD_REMOVAL = """
INSERT INTO file_removals (object_key, provider, bucket) VALUES ($1::text, $2::text, $3::text) ON CONFLICT DO NOTHING
"""

DROP_REMOVAL = """
DELETE FROM file_removals WHERE object_key = $1::text AND provider = $2::text AND bucket = $3::text
"""

_USAGE = "org_id, total_bytes, files, max_total_bytes, max_files, max_file_bytes"

GET_USAGE = f"SELECT {_USAGE} FROM file_usage WHERE org_id = $1::text"  # noqa: S608 - put together of constants

# Whoever comes next waits until the transaction ends.
COUNT_IN = f"""
INSERT INTO file_usage (org_id, total_bytes, files) VALUES ($1::text, $2::bigint, $3::bigint)
ON CONFLICT (org_id) DO UPDATE
SET total_bytes = file_usage.total_bytes + EXCLUDED.total_bytes, files = file_usage.files + EXCLUDED.files
RETURNING {_USAGE}
"""  # noqa: S608 - put together of constants

SET_LIMITS = f"""
INSERT INTO file_usage (org_id, max_total_bytes, max_files, max_file_bytes)
VALUES ($1::text, $2::bigint, $3::bigint, $4::bigint)
ON CONFLICT (org_id) DO UPDATE
SET
    max_total_bytes = CASE WHEN 'max_total_bytes' = ANY ($5::text[]) THEN EXCLUDED.max_total_bytes ELSE file_usage.max_total_bytes END,
    max_files = CASE WHEN 'max_files' = ANY ($5::text[]) THEN EXCLUDED.max_files ELSE file_usage.max_files END,
    max_file_bytes = CASE WHEN 'max_file_bytes' = ANY ($5::text[]) THEN EXCLUDED.max_file_bytes ELSE file_usage.max_file_bytes END
RETURNING {_USAGE}
"""  # noqa: S608 - put together of constants
