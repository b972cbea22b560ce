"""Whose objects are in a store: an object tells it, so that a copy of a database removes nothing of the original's."""

from dataclasses import dataclass
from enum import Enum

from millrace_storage.cleanup_report import CleanupReport
from millrace_storage.object_store import ObjectMissingError, ObjectStore
from millrace_storage.store_problems import STORE_ERRORS, describe_problem, store_name

OWNER_KEY = "millrace-owner"
"""The key of the object, behind the prefix of all keys."""

_LONGEST_IDENTITY = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where objects of one database are: a kind of store, a bucket, and what their keys begin with."""

    provider: str
    bucket: str
    prefix: str


class Owner(Enum):
    """Whose the objects of a place are."""

    THIS = "this database's"
    NOBODY = "nobody has said"
    OTHER = "another database's"
    UNKNOWN = "the store does not tell now"


class StoreOwners:
    """Tells whose the objects of places are. Each is asked once; that of which nothing good comes is told in the report."""

    def __init__(self, identity: str | None, report: CleanupReport) -> None:
        """Take what this database calls itself; None: it may not know, and then all objects that its rows tell of are its own."""
        self._identity = identity
        self._report = report
        self._owners: dict[Place, Owner] = {}

    async def of(self, store: ObjectStore, prefix: str, *, claim: bool = False) -> Owner:
        """Return whose the objects of a place are; with `claim` those of nobody become this database's."""
        place = Place(store.provider, store.bucket, prefix)
        if self._identity is None:
            return Owner.NOBODY
        if place not in self._owners:
            self._owners[place] = await self._found(store, prefix, self._identity, claim=claim)
        return self._owners[place]

    async def _found(self, store: ObjectStore, prefix: str, identity: str, *, claim: bool) -> Owner:
        key = prefix + OWNER_KEY
        try:
            owner = await _read(store, key)
        except STORE_ERRORS as error:
            self._tell(store, error)
            return Owner.UNKNOWN
        if owner is None and claim:
            try:
                # Another one may do the same at this moment.
                await store.create(key, identity.encode())
                owner = await _read(store, key)
            except STORE_ERRORS as error:
                # A full disk is no reason not to remove what a row tells of.
                self._tell(store, error)
        if owner is None:
            return Owner.NOBODY
        if owner == identity:
            return Owner.THIS
        where = store.where(key)
        self._report.left_alone.append(
            f"objects stay in the object store {store_name(store.provider, store.bucket)}: they belong to another database: "
            f"{where} says {owner}, and this one is {identity}. If they are this one's now, delete {where}"
        )
        return Owner.OTHER

    def _tell(self, store: ObjectStore, error: Exception) -> None:
        self._report.problems.append(describe_problem(store.provider, store.bucket, error))


async def _read(store: ObjectStore, key: str) -> str | None:
    content = b""
    try:
        async for chunk in await store.get(key, end=_LONGEST_IDENTITY):
            content += chunk
    except ObjectMissingError:
        return None
    return content.decode(errors="replace")
