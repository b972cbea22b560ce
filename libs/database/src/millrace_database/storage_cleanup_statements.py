"""The SQL statements of the clean-up of the storage.

Locks are taken in the order that file_statements names: uploads, files, and last the usage, by organisation, since no other
statement locks that of several. Files and uploads that somebody else has locked are passed over; only who makes room in an
organisation waits for its files, with no other lock in hand.
"""

# $1 for how long presigned uploads are kept after their end. What a confirmation that broke off has moved is content of an
# upload that can be confirmed again.
_NOBODY_GOES_ON = """
    expires_at <= now() AND (kind = 'stream' OR expires_at <= now() - $1::interval)
    AND NOT EXISTS (
        SELECT FROM file_uploads AS open
        WHERE open.upload_id = file_uploads.confirms AND open.file_id IS NULL AND open.expires_at > now()
    )
"""

# $2 where the last batch came to, NULL: nowhere, $3 how many. Of what lies in the store under the key nothing is known, which 0
# stands for.
GIVE_UP_UPLOADS = f"""
WITH expired AS MATERIALIZED (
    SELECT upload_id, expires_at
    FROM file_uploads
    WHERE expires_at >= coalesce($2::timestamptz, '-infinity') AND {_NOBODY_GOES_ON}
    ORDER BY expires_at
    LIMIT $3::integer
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM file_uploads WHERE upload_id = ANY (ARRAY(SELECT expired.upload_id FROM expired))
    RETURNING object_key, provider, bucket
), removals AS (
    INSERT INTO file_removals (object_key, provider, bucket) SELECT object_key, provider, bucket FROM gone
    ON CONFLICT DO NOTHING
)
SELECT count(*) AS count, max(expires_at) AS last FROM expired
"""  # noqa: S608 - put together of constants

COUNT_EXPIRED_UPLOADS = f"SELECT count(*) FROM file_uploads WHERE {_NOBODY_GOES_ON}"  # noqa: S608 - put together of constants

# A page of the files of jobs, from behind the job $1 and its file $2 on, $3 of them.
_VISIT_FILES_OF_JOBS = """
    SELECT job_id, file_id, size_bytes, state, expires_at FROM (
        (
            SELECT job_id, file_id, size_bytes, state, expires_at FROM files
            WHERE job_id = $1::uuid AND file_id < $2::uuid
            ORDER BY file_id DESC
            LIMIT $3::integer
        )
        UNION ALL
        (
            SELECT job_id, file_id, size_bytes, state, expires_at FROM files
            WHERE job_id > $1::uuid
            ORDER BY job_id, file_id DESC
            LIMIT $3::integer
        )
    ) AS page
    ORDER BY job_id, file_id DESC
    LIMIT $3::integer
"""

# Those of them that go with a job that is gone. What has no record, as a system run, is known by its entry in the queue.
_WITHOUT_JOB = """
    SELECT file_id, size_bytes FROM visited
    WHERE state = 'with_job' AND expires_at IS NULL
        AND NOT EXISTS (SELECT FROM jobs WHERE jobs.job_id = visited.job_id)
        AND NOT EXISTS (SELECT FROM queue WHERE queue.id = visited.job_id)
"""

_VISITED = """
SELECT (SELECT count(*) FROM visited) AS visited, last.job_id AS last_job_id, last.file_id AS last_file_id,
    found.count, found.bytes
FROM (SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS bytes FROM {found}) AS found
    LEFT JOIN (SELECT job_id, file_id FROM visited ORDER BY job_id DESC, file_id LIMIT 1) AS last ON true
"""

EXPIRE_FILES_OF_GONE_JOBS = f"""
WITH visited AS MATERIALIZED ({_VISIT_FILES_OF_JOBS}
), abandoned AS MATERIALIZED ({_WITHOUT_JOB}
), locked AS MATERIALIZED (
    SELECT file_id FROM files
    WHERE file_id = ANY (ARRAY(SELECT abandoned.file_id FROM abandoned)) AND state = 'with_job' AND expires_at IS NULL
    FOR UPDATE SKIP LOCKED
), expired AS (
    UPDATE files SET expires_at = now() WHERE file_id = ANY (ARRAY(SELECT locked.file_id FROM locked))
    RETURNING size_bytes
){_VISITED.format(found="expired")}
"""  # noqa: S608 - put together of constants

COUNT_FILES_OF_GONE_JOBS = f"""
WITH visited AS MATERIALIZED ({_VISIT_FILES_OF_JOBS}
), abandoned AS MATERIALIZED ({_WITHOUT_JOB}
){_VISITED.format(found="abandoned")}
"""

# Deleted files do not count as used.
_REMOVE_DOOMED = """
gone AS (
    DELETE FROM files WHERE file_id = ANY (ARRAY(SELECT doomed.file_id FROM doomed))
    RETURNING org_id, object_key, provider, bucket, size_bytes, deleted_at
), removals AS (
    INSERT INTO file_removals (object_key, provider, bucket, size_bytes)
    SELECT object_key, provider, bucket, size_bytes FROM gone
    ON CONFLICT DO NOTHING
), less AS MATERIALIZED (
    SELECT org_id, sum(size_bytes)::bigint AS bytes, count(*) AS files
    FROM gone
    WHERE deleted_at IS NULL
    GROUP BY org_id
), locked AS MATERIALIZED (
    SELECT org_id FROM file_usage WHERE org_id = ANY (ARRAY(SELECT less.org_id FROM less))
    ORDER BY org_id
    FOR UPDATE
), counted AS (
    UPDATE file_usage AS usage
    SET total_bytes = greatest(usage.total_bytes - less.bytes, 0), files = greatest(usage.files - less.files, 0)
    FROM locked JOIN less ON less.org_id = locked.org_id
    WHERE usage.org_id = locked.org_id
)
SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS bytes, (SELECT max(expires_at) FROM doomed) AS last FROM gone
"""

# $1 where the last batch came to, NULL: nowhere, $2 how many.
REMOVE_EXPIRED_FILES = f"""
WITH doomed AS MATERIALIZED (
    SELECT file_id, expires_at
    FROM files
    WHERE expires_at >= coalesce($1::timestamptz, '-infinity') AND expires_at <= now()
    ORDER BY expires_at
    LIMIT $2::integer
    FOR UPDATE SKIP LOCKED
), {_REMOVE_DOOMED}
"""  # noqa: S608 - put together of constants

# $1 the organisation, $2 how many. Those that count as used. What somebody else is about to remove is waited for: whoever
# looks at the usage afterwards finds all of them counted out.
REMOVE_EXPIRED_FILES_OF = f"""
WITH doomed AS MATERIALIZED (
    SELECT file_id, expires_at
    FROM files
    WHERE org_id = $1::text AND expires_at <= now() AND deleted_at IS NULL
    ORDER BY expires_at
    LIMIT $2::integer
    FOR UPDATE
), {_REMOVE_DOOMED}
"""  # noqa: S608 - put together of constants

COUNT_EXPIRED_FILES = """
SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS bytes FROM files WHERE expires_at <= now()
"""

# $2, $3 and $4 the providers, buckets and beginnings of keys to leave out.
_LEFT_OUT = """
    EXISTS (
        SELECT FROM unnest($2::text[], $3::text[], $4::text[]) AS away (provider, bucket, prefix)
        WHERE away.provider = removal.provider AND away.bucket = removal.bucket
            AND (
                starts_with(removal.object_key, away.prefix || 'org-')
                OR starts_with(removal.object_key, away.prefix || 'incoming/')
            )
    )
"""

# $1 what is due until when, $2, $3 and $4 what to leave out, $5 how many, $6 and $7 how
# long to wait after the first failure, and at most. Taking one is a try, and puts it off until the next: whoever has tried in
# vain, or has died, need not write anything.
_TAKE_REMOVALS = """
WITH due AS MATERIALIZED (
    SELECT object_key, provider, bucket, due_at
    FROM file_removals AS removal
    WHERE {next} AND due_at <= $1::timestamptz AND NOT {left_out}
    ORDER BY {order}
    LIMIT $5::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE file_removals AS removal
SET attempts = removal.attempts + 1,
    due_at = now() + least($6::interval * power(2, least(removal.attempts, 20)), $7::interval)
FROM due
WHERE removal.object_key = due.object_key AND removal.provider = due.provider AND removal.bucket = due.bucket
RETURNING removal.object_key, removal.provider, removal.bucket, removal.size_bytes, removal.attempts, due.due_at
"""

# $8 the last key of the last batch, or nothing. What nobody has tried yet, folder by folder: a batch by the time would be
# spread over all of them, and a disk flushes each folder for itself.
TAKE_NEW_REMOVALS = _TAKE_REMOVALS.format(
    next="attempts = 0 AND object_key >= $8::text", left_out=_LEFT_OUT, order="object_key"
)

# $8 where the last batch came to, NULL: nowhere. What was tried together comes together again.
TAKE_REMOVALS = _TAKE_REMOVALS.format(
    next="due_at >= coalesce($8::timestamptz, '-infinity')", left_out=_LEFT_OUT, order="due_at"
)

# For the same transaction: many that came, or were put off, a moment ago are few by the statistics, and would all be sorted for each batch.
SORT_NOTHING = "SELECT set_config('enable_sort', 'off', true)"

REMOVALS_DONE = """
DELETE FROM file_removals WHERE provider = $1::text AND bucket = $2::text AND object_key = ANY ($3::text[])
"""

COUNT_REMOVALS = """
SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS bytes FROM file_removals WHERE due_at <= now()
"""

# What would be due when expired files and uploads had been removed: $1 as of uploads, $2, $3 and $4 what is left out.
COUNT_DOOMED_OBJECTS = f"""
SELECT provider, bucket, {_LEFT_OUT} AS is_left_out, count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS bytes
FROM (
    SELECT object_key, provider, bucket, size_bytes FROM file_removals WHERE due_at <= now()
    UNION ALL
    SELECT object_key, provider, bucket, size_bytes FROM files WHERE expires_at <= now()
    UNION ALL
    SELECT object_key, provider, bucket, 0 FROM file_uploads WHERE {_NOBODY_GOES_ON}
) AS removal
GROUP BY provider, bucket, is_left_out
"""  # noqa: S608 - put together of constants

COUNT_WAITING_REMOVALS = """
SELECT count(*) AS count, coalesce(sum(size_bytes), 0)::bigint AS bytes FROM file_removals WHERE due_at > now()
"""

# Who copies objects to another store changes the rows before or after that: a key counts as known wherever it is.
KNOWN_OBJECTS = """
SELECT object_key FROM files WHERE object_key = ANY ($1::text[])
UNION ALL
SELECT object_key FROM file_uploads WHERE object_key = ANY ($1::text[])
UNION ALL
SELECT object_key FROM file_removals WHERE object_key = ANY ($1::text[])
"""

# A removal that is due undoes the writes of its object, too. Found by the keys: all that are due may be many.
CLAIMED_WRITES = """
WITH removals AS MATERIALIZED (
    SELECT object_key, size_bytes, due_at FROM file_removals WHERE object_key = ANY ($1::text[])
)
SELECT object_key FROM file_uploads WHERE object_key = ANY ($1::text[])
UNION ALL
SELECT object_key FROM removals WHERE size_bytes = 0 AND due_at <= now()
"""
