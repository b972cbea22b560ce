"""Figures of speed, each a ratio to what the same Postgres does with the bare statements in the same run."""
