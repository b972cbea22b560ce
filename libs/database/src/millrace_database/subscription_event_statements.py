"""The SQL statements of events: who wants to know of a job's end, and the jobs that tell them."""

from millrace_database.deliveries import DELIVERY_TYPES, EVENT_TYPE

EVENTS_AT_ONCE = 10
"""How many events are posted to one subscription at once, over all workers."""

_DELIVERY_TYPES = ", ".join(f"'{type_}'" for type_ in sorted(DELIVERY_TYPES))

# Of an entry of the queue whose tenant is an organisation. No EXISTS: that becomes a join, which may read all subscriptions for
# each entry. The collation of the queue is not the one of the index, which could not be used without saying so.
IS_SUBSCRIBED = """((
            SELECT true FROM job_subscriptions AS subscription
            WHERE subscription.org_id = queue.tenant COLLATE "default" AND subscription.state = 'enabled'
            LIMIT 1
        ) IS NOT NULL)"""

# Of a row of jobs that has just ended. One that waits again has no event of that name.
SUBSCRIBERS = f"""ARRAY(
    SELECT subscription.subscription_id
    FROM job_subscriptions AS subscription
    WHERE subscription.org_id = jobs.org_id AND subscription.state = 'enabled'
        AND subscription.event_types @> ARRAY['job.' || jobs.status]
        AND (cardinality(subscription.job_types) = 0 OR subscription.job_types @> ARRAY[jobs.type])
        AND jobs.type NOT IN ({_DELIVERY_TYPES})
) AS subscribers"""  # noqa: S608 - put together of constants

# Of one that is slow all wait, and others do not. The key, and with it the gate of the type, comes into being with the first
# event: who has no subscriptions pays nothing for it.
_OPTIONS = f"""jsonb_build_object('concurrency', jsonb_build_object(
        'key', 'millrace:' || subscription.name, 'limit', {EVENTS_AT_ONCE}
    ))"""

# $1 the ids of the jobs to be made, $2 the jobs that have ended, $3 the subscriptions, $4 the attempts while no worker has
# published the type. The input has neither URL nor secret, which are read when the event is sent: whoever may read jobs may
# read their inputs.
CREATE_EVENTS = f"""
INSERT INTO jobs (job_id, org_id, type, input, metadata, created_by, max_attempts, options, parent_job_id)
SELECT given.event_id, jobs.org_id, '{EVENT_TYPE}',
    jsonb_build_object(
        'subscription_id', subscription.name, 'event', 'job.' || jobs.status,
        'job_id', 'job_' || translate(jobs.job_id::text, '-', '')
    ),
    jsonb_build_object('subscription_id', subscription.name, 'event', 'job.' || jobs.status),
    jobs.created_by,
    coalesce((SELECT max_attempts FROM job_types WHERE type = '{EVENT_TYPE}'), $4::integer),
    {_OPTIONS}, jobs.job_id
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS given (event_id, job_id, subscription_id)
JOIN jobs ON jobs.job_id = ANY (ARRAY[given.job_id])
CROSS JOIN LATERAL (
    SELECT 'subscription_' || translate(given.subscription_id::text, '-', '') AS name
) AS subscription
RETURNING job_id, org_id, type, max_attempts, priority, options::text AS options_json
"""  # noqa: S608 - put together of constants

# What is told of something else than a job's end: $1 ids, $2 organisations, $3 types, $4 subscriptions, $5 inputs, $6 labels,
# $7 who is said to have created them, $8 as $4 above.
CREATE_NOTICES = f"""
INSERT INTO jobs (job_id, org_id, type, input, metadata, created_by, max_attempts, options)
SELECT given.job_id, given.org_id, given.type, given.input::jsonb, given.metadata::jsonb, given.created_by,
    coalesce(job_types.max_attempts, $8::integer), CASE WHEN given.type = '{EVENT_TYPE}' THEN {_OPTIONS} END
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[])
    AS given (job_id, org_id, type, subscription_id, input, metadata, created_by)
CROSS JOIN LATERAL (
    SELECT 'subscription_' || translate(given.subscription_id::text, '-', '') AS name
) AS subscription
LEFT JOIN job_types ON job_types.type = given.type
RETURNING job_id, org_id, type, max_attempts, priority, options::text AS options_json
"""  # noqa: S608 - put together of constants

# $3 the job that delivers it: an event is as old as that, and tells of no later end.
GET_RECEIVER = """
SELECT url, version, state, disabled_reason, notify_emails, secret,
    CASE WHEN previous_secret_until > now() THEN previous_secret END AS previous_secret,
    (SELECT created_at FROM jobs WHERE job_id = $3::uuid) AS event_at
FROM job_subscriptions
WHERE subscription_id = $1::uuid AND org_id = $2::text
"""

GET_ENDED_JOB = """
SELECT job_id, org_id, type, status, output::text AS output_json, output ->> 'file_id' AS file_id,
    metadata::text AS metadata_json, error_code, error_message, error_retryable, created_by, created_at, started_at,
    completed_at, attempt, schedule_id, coalesce(completed_at > $3::timestamptz, false) AS ended_again
FROM jobs
WHERE job_id = $1::uuid AND org_id = $2::text
"""
