"""Database URLs: what people write, what SQLAlchemy reads, what asyncpg reads."""

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVER = "postgresql+asyncpg"
_ACCEPTED = frozenset({"postgres", "postgresql", _DRIVER})


def normalise_url(url: str) -> str:
    """Return `url` as ``postgresql+asyncpg://…``, the one form used everywhere inside.

    Accepts ``postgres://``, ``postgresql://`` and ``postgresql+asyncpg://``, with ``host=/folder`` for a Unix
    socket and ``sslmode`` (kept as ``ssl``, asyncpg's word for it). Raises ValueError for anything else; the
    message holds no password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ValueError(
            "the database URL cannot be read; expected postgresql://user@host/database"
        ) from error
    if parsed.drivername not in _ACCEPTED:
        raise ValueError(f"the database URL starts with {parsed.drivername}://; expected postgresql://")
    renamed = _renamed_parameter(parsed, "sslmode", "ssl")
    return renamed.set(drivername=_DRIVER).render_as_string(hide_password=False)


def asyncpg_dsn(url: str) -> str:
    """Return `url` in the form that ``asyncpg.connect`` takes. Raises ValueError as `normalise_url` does."""
    parsed = _renamed_parameter(make_url(normalise_url(url)), "ssl", "sslmode")
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)


def with_database(url: str, database: str) -> str:
    """Return `url` for another database of the same server."""
    return make_url(normalise_url(url)).set(database=database).render_as_string(hide_password=False)


def _renamed_parameter(url: URL, old: str, new: str) -> URL:
    if old not in url.query:
        return url
    query = {new if name == old else name: value for name, value in url.query.items()}
    return url.set(query=query)
