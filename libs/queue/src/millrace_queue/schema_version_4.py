"""What version 4 changes of the tables of the queue engine: workers that were lost are remembered for a while."""

# A worker that is not in `queue_workers` any more, and may still hold entries: who it was.
_LOST_WORKERS = """
CREATE TABLE queue_lost_workers (
    worker_id uuid PRIMARY KEY,
    details jsonb NOT NULL,
    removed_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, vacuum_truncate = off)
"""

VERSION_4: tuple[str, ...] = (_LOST_WORKERS,)
