"""The Postgres queue engine: entries, leases and fences."""
