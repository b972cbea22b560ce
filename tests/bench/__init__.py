"""Figures of speed, each beside what the same Postgres does with the bare statements in the same run."""
