"""The tables of the queue engine, as the SQL statements that make them.

A version is frozen once released: the migration history of the database executes it, statement by statement.
"""

# Text columns compare byte by byte (COLLATE "C"): only equality matters here, and it is cheapest so. No vacuum
# gives pages back, because that needs an exclusive lock on the hottest table of all.
_QUEUE = """
CREATE TABLE queue (
    id uuid PRIMARY KEY,
    run_at timestamptz NOT NULL DEFAULT now(),
    fence bigint,
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL,
    priority smallint NOT NULL DEFAULT 0,
    cancel_requested boolean NOT NULL DEFAULT false,
    worker_id uuid,
    state text COLLATE "C" NOT NULL DEFAULT 'ready',
    type text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    CONSTRAINT queue_state CHECK (state IN ('scheduled', 'ready', 'running')),
    CONSTRAINT queue_worker_when_running CHECK ((state = 'running') = (worker_id IS NOT NULL)),
    CONSTRAINT queue_fence_when_running CHECK ((state = 'running') = (fence IS NOT NULL)),
    CONSTRAINT queue_cancel_only_running CHECK (state = 'running' OR NOT cancel_requested),
    CONSTRAINT queue_priority CHECK (priority BETWEEN -1000 AND 1000),
    CONSTRAINT queue_attempt_range CHECK (attempt BETWEEN 0 AND max_attempts),
    CONSTRAINT queue_attempt_counted CHECK (state <> 'running' OR attempt >= 1),
    CONSTRAINT queue_attempt_left CHECK (state = 'running' OR attempt < max_attempts)
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.1,
    autovacuum_analyze_threshold = 1000,
    vacuum_truncate = off
)
"""

_WORKERS = """
CREATE TABLE queue_workers (
    worker_id uuid PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    lease interval NOT NULL,
    draining boolean NOT NULL DEFAULT false,
    details jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT queue_workers_lease CHECK (lease > interval '0')
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 200,
    vacuum_truncate = off
)
"""

VERSION_1: tuple[str, ...] = (
    "CREATE SEQUENCE queue_fence AS bigint",
    _QUEUE,
    # Both keys ascending, so that a claim can begin at any place of the order with one index probe.
    "CREATE INDEX queue_ready ON queue (type, (-priority), id) WHERE state = 'ready'",
    "CREATE INDEX queue_due ON queue (run_at) WHERE state = 'scheduled'",
    "CREATE INDEX queue_held ON queue (worker_id) WHERE state = 'running'",
    _WORKERS,
)

VERSION_2: tuple[str, ...] = (
    # What waits of a tenant, in the order of ids. A claim takes an entry out of it, and so does not write it.
    "CREATE INDEX queue_waiting ON queue (tenant, id) WHERE state <> 'running'",
)
