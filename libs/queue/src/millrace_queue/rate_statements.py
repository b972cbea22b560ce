"""The SQL statements that change how much of rates is used."""

from millrace_queue.rates import CLOCK_SET_BACK

LATEST_START = f"now() + interval '{CLOCK_SET_BACK.total_seconds()} seconds'"
"""Starts that were recorded as later than this count in no rate: the clock has been set back since."""

# When the limits of a type or tenant are set: what was to wait for a slower rate need not. How many of the new one have
# started is known all the same, but for starts from before the clock was set back.
OPEN_RATE = f"""
UPDATE queue_rates
SET next_at = now(), (start_times, start_counts) = (
    SELECT start_times[:count(*)::integer], start_counts[:count(*)::integer]
    FROM unnest(start_times) AS time
    WHERE time <= {LATEST_START}
)
WHERE type = $1::text AND tenant = $2::text AND next_at > now()
"""  # noqa: S608 - put together of constants

SAVE_RATES = """
INSERT INTO queue_rates (type, tenant, start_times, start_counts, next_at, waiting, idle_at)
SELECT type, tenant, ARRAY(SELECT time::timestamptz FROM jsonb_array_elements_text(times) AS time),
    ARRAY(SELECT count::integer FROM jsonb_array_elements_text(counts) AS count), next_at, waiting, idle_at
FROM unnest(
    $1::text[], $2::text[], $3::text[]::jsonb[], $4::text[]::jsonb[], $5::timestamptz[], $6::boolean[], $7::timestamptz[]
) AS rate (type, tenant, times, counts, next_at, waiting, idle_at)
ORDER BY type, tenant
ON CONFLICT (type, tenant) DO UPDATE
SET start_times = excluded.start_times, start_counts = excluded.start_counts, next_at = excluded.next_at,
    waiting = excluded.waiting, idle_at = excluded.idle_at
"""
