"""Millrace's tables, migrations, repositories and embedded Postgres."""
