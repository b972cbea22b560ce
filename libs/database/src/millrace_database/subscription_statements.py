"""The SQL statements of subscriptions."""

# Without the secrets, which only whoever signs an event reads.
_COLUMNS = """
subscription_id, org_id, url, event_types, job_types, description, notify_emails, state, disabled_reason, disabled_at,
failing_since, failed_attempts, last_error, last_failure_at, last_success_at, created_by, created_at, updated_at, version
"""


def with_columns(statement: str) -> str:
    """Put the columns of a SubscriptionRecord where the statement says ``<columns>``."""
    return statement.replace("<columns>", _COLUMNS.strip())


# Those who create subscriptions of an organisation do so one after the other, so that none of them counts too few.
LOCK_CREATION = "SELECT pg_advisory_xact_lock(hashtextextended('millrace.subscriptions.' || $1::text, 0))"

GET_BY_REQUEST = with_columns("""
SELECT <columns> FROM job_subscriptions
WHERE org_id = $1::text AND request_id = $2::text AND request_id IS NOT NULL
""")

# Nothing is inserted when the organisation has $10 already.
INSERT = with_columns("""
INSERT INTO job_subscriptions (
    subscription_id, org_id, url, secret, event_types, job_types, description, notify_emails, created_by, request_id
)
SELECT $1::uuid, $2::text, $3::text, $4::text, $5::text[], $6::text[], $7::text, $8::text[], $9::text, $11::text
WHERE (SELECT count(*) FROM job_subscriptions WHERE org_id = $2::text) < $10::integer
RETURNING <columns>
""")

GET = with_columns("""
SELECT <columns> FROM job_subscriptions WHERE subscription_id = $1::uuid AND org_id = $2::text
""")

LIST = with_columns("""
SELECT <columns> FROM job_subscriptions
WHERE org_id = $1::text AND subscription_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    AND (cardinality($4::text[]) = 0 OR state = ANY ($4::text[]))
ORDER BY subscription_id DESC
LIMIT $3::integer
""")

# What failed was the URL before.
UPDATE = with_columns("""
UPDATE job_subscriptions
SET failing_since = CASE WHEN url = coalesce($4::text, url) THEN failing_since END,
    failed_attempts = CASE WHEN url = coalesce($4::text, url) THEN failed_attempts ELSE 0 END,
    last_error = CASE WHEN url = coalesce($4::text, url) THEN last_error ELSE '' END,
    last_failure_at = CASE WHEN url = coalesce($4::text, url) THEN last_failure_at END,
    url = coalesce($4::text, url), event_types = coalesce($5::text[], event_types),
    job_types = coalesce($6::text[], job_types), description = coalesce($7::text, description),
    notify_emails = coalesce($8::text[], notify_emails), updated_at = now(), version = version + 1
WHERE subscription_id = $1::uuid AND org_id = $2::text AND ($3::bigint IS NULL OR version = $3::bigint)
RETURNING <columns>
""")

DELETE = """
DELETE FROM job_subscriptions WHERE subscription_id = $1::uuid AND org_id = $2::text RETURNING subscription_id
"""

PAUSE = with_columns("""
UPDATE job_subscriptions
SET state = 'paused', disabled_reason = '', disabled_at = NULL, updated_at = now(), version = version + 1
WHERE subscription_id = $1::uuid AND org_id = $2::text AND state <> 'paused'
RETURNING <columns>
""")

RESUME = with_columns("""
UPDATE job_subscriptions
SET state = 'enabled', disabled_reason = '', disabled_at = NULL, failing_since = NULL, failed_attempts = 0,
    last_error = '', last_failure_at = NULL, updated_at = now(), version = version + 1
WHERE subscription_id = $1::uuid AND org_id = $2::text AND state <> 'enabled'
RETURNING <columns>
""")

# The same secret once more is a call that is repeated: the one before stays as it is.
ROTATE = with_columns("""
UPDATE job_subscriptions
SET previous_secret = secret, previous_secret_until = now() + $4::interval, secret = $3::text,
    updated_at = now(), version = version + 1
WHERE subscription_id = $1::uuid AND org_id = $2::text AND secret <> $3::text
RETURNING <columns>
""")
