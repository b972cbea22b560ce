"""The third version of the queue's tables: fair ranks, lines, limits, parking, unique keys, time limits of waiting.

It only adds, so that a release that knows version 2 goes on running beside one that knows this: its entries have
rank 0 and come first in their line, and it claims in the order of ids, without regard to limits.
"""

# `rank` orders the ready entries of a type and priority fairly among tenants. `gated` marks a running entry that
# counts in the limits of its type. `unique_slot` says in which of the states that its unique key covers it is.
_COLUMNS = """
ALTER TABLE queue
    ADD COLUMN rank bigint NOT NULL DEFAULT 0,
    ADD COLUMN enqueued_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN leases_lost smallint NOT NULL DEFAULT 0,
    ADD COLUMN gated boolean NOT NULL DEFAULT false,
    ADD COLUMN parked_by text COLLATE "C",
    ADD COLUMN concurrency_key text COLLATE "C",
    ADD COLUMN concurrency_limit integer,
    ADD COLUMN key_order text COLLATE "C",
    ADD COLUMN unique_key text COLLATE "C",
    ADD COLUMN unique_while text COLLATE "C",
    ADD COLUMN unique_slot text COLLATE "C",
    DROP CONSTRAINT queue_state,
    ADD CONSTRAINT queue_state CHECK (state IN ('scheduled', 'ready', 'parked', 'running')),
    ADD CONSTRAINT queue_parked CHECK ((state = 'parked') = (parked_by IS NOT NULL)),
    ADD CONSTRAINT queue_parked_by CHECK (parked_by IN ('tenant', 'key')),
    ADD CONSTRAINT queue_gated CHECK (state = 'running' OR NOT gated),
    ADD CONSTRAINT queue_concurrency CHECK (
        (concurrency_key IS NULL) = (concurrency_limit IS NULL) AND concurrency_limit >= 1
    ),
    ADD CONSTRAINT queue_key_order CHECK (
        key_order IS NULL OR (key_order IN ('block', 'skip') AND concurrency_limit = 1)
    ),
    ADD CONSTRAINT queue_unique_while CHECK (unique_while IN ('waiting', 'unfinished', 'each_state')),
    ADD CONSTRAINT queue_unique CHECK ((unique_key IS NULL) = (unique_while IS NULL)),
    ADD CONSTRAINT queue_unique_slot CHECK (unique_slot IS NULL OR unique_key IS NOT NULL)
"""

# A line: the ready entries of a type and priority. `start` is a rank behind which the next one to be served stands,
# so that a search need not pass over what served entries left in the index.
_LINES = """
CREATE TABLE queue_lines (
    type text COLLATE "C" NOT NULL,
    priority smallint NOT NULL,
    start bigint NOT NULL DEFAULT 0,
    next_start bigint NOT NULL DEFAULT 0,
    kept_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (type, priority)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, vacuum_truncate = off)
"""

# What holds for a type over all workers; NULL: no limit. A rate is so many starts in so much time, spread evenly if
# `smooth`, otherwise as they come. `keyed`: some entry of the type has, or had, a concurrency key. `gated_since`: what was
# claimed before does not count in the limits until it has been marked.
_TYPES = """
CREATE TABLE queue_types (
    type text COLLATE "C" PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false,
    keyed boolean NOT NULL DEFAULT false,
    max_running integer,
    max_running_per_tenant integer,
    rate_count integer,
    rate_period interval,
    rate_smooth boolean NOT NULL DEFAULT false,
    tenant_rate_count integer,
    tenant_rate_period interval,
    tenant_rate_smooth boolean NOT NULL DEFAULT false,
    gated_since timestamptz,
    changed_at timestamptz NOT NULL DEFAULT now(),
    gated boolean NOT NULL GENERATED ALWAYS AS (
        keyed OR max_running IS NOT NULL OR max_running_per_tenant IS NOT NULL OR rate_count IS NOT NULL
        OR tenant_rate_count IS NOT NULL
    ) STORED,
    CONSTRAINT queue_types_limits CHECK (max_running >= 0 AND max_running_per_tenant >= 0),
    CONSTRAINT queue_types_rate CHECK (
        (rate_count IS NULL) = (rate_period IS NULL) AND rate_count >= 1 AND rate_period > interval '0'
    ),
    CONSTRAINT queue_types_tenant_rate CHECK (
        (tenant_rate_count IS NULL) = (tenant_rate_period IS NULL)
        AND tenant_rate_count >= 1 AND tenant_rate_period > interval '0'
    )
)
"""

# What holds for a tenant over all types. Twice the weight is twice the share of a line.
_TENANTS = """
CREATE TABLE queue_tenants (
    tenant text COLLATE "C" PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false,
    weight integer NOT NULL DEFAULT 1,
    max_running integer,
    rate_count integer,
    rate_period interval,
    rate_smooth boolean NOT NULL DEFAULT false,
    gated_since timestamptz,
    changed_at timestamptz NOT NULL DEFAULT now(),
    gated boolean NOT NULL GENERATED ALWAYS AS (max_running IS NOT NULL OR rate_count IS NOT NULL) STORED,
    CONSTRAINT queue_tenants_weight CHECK (weight BETWEEN 1 AND 100),
    CONSTRAINT queue_tenants_limits CHECK (max_running >= 0),
    CONSTRAINT queue_tenants_rate CHECK (
        (rate_count IS NULL) = (rate_period IS NULL) AND rate_count >= 1 AND rate_period > interval '0'
    )
)
"""

# How much of a rate is used: the starts that still count, those close to each other as one, and when the next start is
# allowed. An empty type or tenant stands for all of them. `waiting`: it is used up, and entries may be parked until it is
# not. After `idle_at` the row says nothing any more.
_RATES = """
CREATE TABLE queue_rates (
    type text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    start_times timestamptz[] NOT NULL DEFAULT '{}',
    start_counts integer[] NOT NULL DEFAULT '{}',
    next_at timestamptz NOT NULL DEFAULT now(),
    waiting boolean NOT NULL DEFAULT false,
    idle_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (type, tenant)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, vacuum_truncate = off)
"""

# A key in strict order whose entry failed for good: what stands behind it waits until the entry is retried or let go.
# `enqueued_at` is the place in the order that the entry has again when it is retried.
_BLOCKED_KEYS = """
CREATE TABLE queue_blocked_keys (
    type text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    concurrency_key text COLLATE "C" NOT NULL,
    id uuid NOT NULL UNIQUE,
    enqueued_at timestamptz NOT NULL DEFAULT now(),
    blocked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (type, tenant, concurrency_key)
)
"""

# The last entry that a throttled key let in, and until when it lets in no other.
_THROTTLES = """
CREATE TABLE queue_throttles (
    unique_key text COLLATE "C" PRIMARY KEY,
    id uuid NOT NULL,
    ends_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000, vacuum_truncate = off)
"""

# Where much waits, a vacuum finds dead rows on few of the pages, and would then leave the indexes as they are. It is
# there that claims would pass over them.
_VACUUM_INDEXES = "ALTER TABLE queue SET (vacuum_index_cleanup = on)"

VERSION_3: tuple[str, ...] = (
    _COLUMNS,
    _VACUUM_INDEXES,
    # All keys ascending, so that a claim can begin at any place of a line with one index probe.
    "CREATE INDEX queue_ranked ON queue (type, (-priority), rank, id) WHERE state = 'ready'",
    # The last rank of a tenant in a line.
    "CREATE INDEX queue_ranked_by_tenant ON queue (type, tenant, priority, rank) WHERE state = 'ready'",
    "CREATE INDEX queue_gated ON queue (type, tenant, concurrency_key) WHERE gated",
    "CREATE INDEX queue_parked_by_tenant ON queue (tenant, type, (-priority), rank, id) WHERE parked_by = 'tenant'",
    "CREATE INDEX queue_parked_by_key ON queue (type, tenant, concurrency_key, (-priority), rank, id) WHERE parked_by = 'key'",
    "CREATE INDEX queue_ready_by_key ON queue (type, tenant, concurrency_key, (-priority), rank) WHERE state = 'ready' AND concurrency_key IS NOT NULL",
    # Who is at the front of a key in strict order. What waits for its first time has no place yet: its rank is 0.
    "CREATE INDEX queue_in_strict_order ON queue (type, tenant, concurrency_key, enqueued_at, id) WHERE key_order IS NOT NULL AND (state <> 'scheduled' OR attempt > 0 OR rank > 0)",
    "CREATE INDEX queue_expiring ON queue (expires_at) WHERE expires_at IS NOT NULL AND state <> 'running'",
    "CREATE UNIQUE INDEX queue_unique ON queue (unique_key, unique_slot) WHERE unique_slot IS NOT NULL",
    # Claims in the order of ranks have an index of their own; the one in the order of ids would cost without use.
    "DROP INDEX queue_ready",
    _LINES,
    "INSERT INTO queue_lines (type, priority) SELECT DISTINCT type, priority FROM queue",
    _TYPES,
    # Each type that has a line has a row, which claims lock when it has limits.
    "INSERT INTO queue_types (type) SELECT DISTINCT type FROM queue",
    _TENANTS,
    "CREATE INDEX queue_tenants_paused ON queue_tenants (tenant) WHERE paused",
    "CREATE INDEX queue_tenants_gated ON queue_tenants (tenant) WHERE gated",
    "CREATE INDEX queue_tenants_gated_or_paused ON queue_tenants (tenant) WHERE gated OR paused",
    _RATES,
    "CREATE INDEX queue_rates_waiting ON queue_rates (next_at) WHERE waiting",
    "CREATE INDEX queue_rates_idle ON queue_rates (idle_at)",
    _BLOCKED_KEYS,
    _THROTTLES,
    "CREATE INDEX queue_throttles_ended ON queue_throttles (ends_at)",
)
