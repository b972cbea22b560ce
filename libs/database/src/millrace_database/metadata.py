"""The collection of all tables, and how constraints are named when nobody names them."""

from sqlalchemy import MetaData

# Postgres's own way of naming, so that a constraint made by hand and one made by a migration match.
metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)
