"""The rules of a time zone."""

from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo


@cache
def load_zone(name: str) -> ZoneInfo:
    """Return the IANA time zone of that name.

    It is read from the tzdata package, as the Scheduler does: what a machine knows of zones may be old.

    Raises LookupError for an unknown name.
    """
    tables = resources.files("tzdata")
    if name not in tables.joinpath("zones").read_text(encoding="utf-8").split():
        raise LookupError(f"unknown time zone {name!r}")
    with tables.joinpath("zoneinfo", *name.split("/")).open("rb") as rules:
        return ZoneInfo.from_file(rules, key=name)
