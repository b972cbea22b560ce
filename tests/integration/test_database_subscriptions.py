import asyncio
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from millrace_database import subscriptions_repository
from millrace_database.database import Database
from millrace_database.ids import new_id
from millrace_database.subscriptions_repository import (
    MAX_SUBSCRIPTIONS,
    NewSubscription,
    SubscriptionChanges,
    SubscriptionRecord,
    TooManySubscriptionsError,
)
from support.polling import eventually

URL = "https://example.com/hooks"
SECRET = "whsec_" + "c2VjcmV0" * 4
OTHER_SECRET = "whsec_" + "b3RoZXJz" * 4


def _subscription(
    org_id: str = "acme", request_id: str | None = None, url: str = URL, secret: str = SECRET
) -> NewSubscription:
    return NewSubscription(
        subscription_id=new_id(),
        org_id=org_id,
        url=url,
        secret=secret,
        event_types=["job.failed", "job.completed"],
        job_types=["reports:generate"],
        description="what fails",
        notify_emails=["ada@example.com"],
        created_by="ada",
        request_id=request_id,
    )


async def _create(database: Database, new: NewSubscription) -> SubscriptionRecord:
    async with database.transaction() as connection:
        record, _ = await subscriptions_repository.create_subscription(connection, new)
    return record


async def _count(database: Database, org_id: str = "acme") -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM job_subscriptions WHERE org_id = $1", org_id
        )
    return count


async def test_a_subscription_comes_back_as_it_was_given(database: Database) -> None:
    new = _subscription()
    record = await _create(database, new)
    async with database.connection() as connection:
        assert (
            await subscriptions_repository.get_subscription(connection, "acme", new.subscription_id) == record
        )
        assert (
            await subscriptions_repository.get_subscription(connection, "other", new.subscription_id) is None
        )
        stored = await connection.fetchval("SELECT secret FROM job_subscriptions")
    assert stored == SECRET
    assert (record.event_types, record.job_types) == (["job.failed", "job.completed"], ["reports:generate"])
    assert (record.url, record.description, record.notify_emails) == (URL, "what fails", ["ada@example.com"])
    assert (record.state, record.version, record.created_by) == ("enabled", 1, "ada")


async def test_secrets_are_in_no_text(database: Database) -> None:
    new = _subscription()
    record = await _create(database, new)
    assert SECRET not in f"{new!r} {record!r}"


async def test_a_request_id_makes_one_subscription(database: Database) -> None:
    first = await _create(database, _subscription(request_id="r"))
    async with database.transaction() as connection:
        again = await subscriptions_repository.create_subscription(connection, _subscription(request_id="r"))
    other = await _create(database, _subscription("other", "r"))
    assert again == (first, False)
    assert other.subscription_id != first.subscription_id


async def test_creations_at_the_same_time_with_one_request_id_make_one_subscription(
    database: Database,
) -> None:
    created = await asyncio.gather(*(_create(database, _subscription(request_id="r")) for _ in range(8)))
    assert len({record.subscription_id for record in created}) == 1
    assert await _count(database) == 1


@pytest.mark.parametrize("commits", [True, False])
async def test_a_creation_waits_for_how_another_with_its_request_id_ends(
    database: Database, *, commits: bool
) -> None:
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        first, _ = await subscriptions_repository.create_subscription(
            connection, _subscription(request_id="r")
        )
        second = asyncio.create_task(_create(database, _subscription(request_id="r")))
        await eventually(lambda: _waits_for_a_lock(database))
        await (transaction.commit() if commits else transaction.rollback())
        made = await second
    assert (made.subscription_id == first.subscription_id) == commits
    assert await _count(database) == 1


async def _waits_for_a_lock(database: Database) -> bool:
    async with database.connection() as connection:
        waits: bool = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory')"
        )
    return waits


async def test_an_organisation_has_no_more_than_it_may(database: Database) -> None:
    for number in range(MAX_SUBSCRIPTIONS - 2):
        await _create(database, _subscription(request_id=f"r{number}"))

    made = await asyncio.gather(
        *(_create(database, _subscription()) for _ in range(8)), return_exceptions=True
    )

    assert sum(isinstance(item, TooManySubscriptionsError) for item in made) == 6
    assert await _count(database) == MAX_SUBSCRIPTIONS
    # A repeated call has its answer all the same.
    assert (await _create(database, _subscription(request_id="r0"))).org_id == "acme"
    await _create(database, _subscription("other"))
    async with database.connection() as connection:
        oldest = await connection.fetchval("SELECT min(subscription_id::text)::uuid FROM job_subscriptions")
        assert await subscriptions_repository.delete_subscription(connection, "acme", oldest)
    await _create(database, _subscription())


@pytest.mark.parametrize("commits", [True, False])
async def test_the_last_place_is_given_once(database: Database, *, commits: bool) -> None:
    for _ in range(MAX_SUBSCRIPTIONS - 1):
        await _create(database, _subscription())

    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await subscriptions_repository.create_subscription(connection, _subscription())
        second = asyncio.create_task(_create(database, _subscription()))
        await eventually(lambda: _waits_for_a_lock(database))
        await (transaction.commit() if commits else transaction.rollback())
    if commits:
        with pytest.raises(TooManySubscriptionsError):
            await second
    else:
        await second
    assert await _count(database) == MAX_SUBSCRIPTIONS


async def _get(database: Database, subscription_id: UUID) -> asyncpg.Record:
    async with database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT *, now() AS read_at FROM job_subscriptions WHERE subscription_id = $1", subscription_id
        )
    assert row is not None
    return row


async def test_subscriptions_are_listed_newest_first_in_pages_and_by_state(database: Database) -> None:
    ids = [(await _create(database, _subscription())).subscription_id for _ in range(5)]
    await _create(database, _subscription("other"))

    async with database.connection() as connection:
        await subscriptions_repository.pause_subscription(connection, "acme", ids[1])

        async def listed(states: list[str], after: UUID | None = None, limit: int = 10) -> list[UUID]:
            records = await subscriptions_repository.list_subscriptions(
                connection, "acme", states, after, limit
            )
            return [record.subscription_id for record in records]

        page = await listed([], limit=3)
        rest = await listed([], page[-1], 3)
        assert page + rest == ids[::-1]
        assert await listed(["paused"]) == [ids[1]]
        assert await listed(["enabled", "disabled"], ids[3]) == [ids[2], ids[0]]


async def test_what_is_given_is_changed_if_the_version_is_the_one_that_was_seen(database: Database) -> None:
    first = await _create(database, _subscription())

    async def update(changes: SubscriptionChanges, version: int | None) -> SubscriptionRecord | None:
        async with database.connection() as connection:
            return await subscriptions_repository.update_subscription(
                connection, "acme", first.subscription_id, changes, version=version
            )

    changed = await update(SubscriptionChanges(url="https://example.org/", job_types=[]), 1)
    assert changed is not None
    assert (changed.url, changed.job_types, changed.version) == ("https://example.org/", [], 2)
    assert (changed.event_types, changed.description) == (first.event_types, first.description)
    assert changed.updated_at > first.updated_at
    assert await update(SubscriptionChanges(description="late"), 1) is None
    last = await update(SubscriptionChanges(description="", notify_emails=[]), None)
    assert last is not None
    assert (last.description, last.notify_emails, last.version) == ("", [], 3)
    assert (last.url, last.job_types) == ("https://example.org/", [])


async def test_of_changes_at_the_same_time_that_saw_one_version_one_is_made(database: Database) -> None:
    first = await _create(database, _subscription())

    async def update(number: int) -> SubscriptionRecord | None:
        async with database.connection() as connection:
            return await subscriptions_repository.update_subscription(
                connection,
                "acme",
                first.subscription_id,
                SubscriptionChanges(description=str(number)),
                version=1,
            )

    made = [record for record in await asyncio.gather(*map(update, range(6))) if record is not None]
    assert len(made) == 1
    assert (await _get(database, first.subscription_id))["description"] == made[0].description


async def test_resuming_forgets_the_failures(database: Database) -> None:
    first = await _create(database, _subscription())
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE job_subscriptions SET state = 'disabled', disabled_reason = 'gone', disabled_at = now(), "
            "failing_since = now(), failed_attempts = 3, last_error = 'no', last_failure_at = now(), "
            "last_success_at = now()"
        )
        resumed = await subscriptions_repository.resume_subscription(
            connection, "acme", first.subscription_id
        )
        assert resumed is not None
        again = await subscriptions_repository.resume_subscription(connection, "acme", first.subscription_id)
    assert (resumed.state, resumed.disabled_reason, resumed.disabled_at) == ("enabled", "", None)
    assert (resumed.failing_since, resumed.failed_attempts) == (None, 0)
    assert (resumed.last_error, resumed.last_failure_at) == ("", None)
    assert resumed.last_success_at is not None
    assert resumed.version == 2
    assert again == resumed


async def test_pausing(database: Database) -> None:
    first = await _create(database, _subscription())
    async with database.connection() as connection:
        paused = await subscriptions_repository.pause_subscription(connection, "acme", first.subscription_id)
        again = await subscriptions_repository.pause_subscription(connection, "acme", first.subscription_id)
        await connection.execute(
            "UPDATE job_subscriptions SET state = 'disabled', disabled_reason = 'gone', disabled_at = now()"
        )
        last = await subscriptions_repository.pause_subscription(connection, "acme", first.subscription_id)
    assert paused is not None
    assert (paused.state, paused.version) == ("paused", 2)
    assert again == paused
    assert last is not None
    assert (last.state, last.disabled_reason, last.disabled_at) == ("paused", "", None)


async def test_the_secret_before_signs_for_another_day(database: Database) -> None:
    first = await _create(database, _subscription())

    async def rotate(secret: str) -> asyncpg.Record:
        async with database.connection() as connection:
            assert await subscriptions_repository.rotate_secret(
                connection, "acme", first.subscription_id, secret
            )
        return await _get(database, first.subscription_id)

    rotated = await rotate(OTHER_SECRET)
    assert (rotated["secret"], rotated["previous_secret"]) == (OTHER_SECRET, SECRET)
    left = rotated["previous_secret_until"] - rotated["read_at"]
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)
    assert rotated["version"] == 2
    repeated = await rotate(OTHER_SECRET)
    assert repeated["previous_secret"] == SECRET
    assert (repeated["version"], repeated["previous_secret_until"]) == (2, rotated["previous_secret_until"])
    third = await rotate(SECRET)
    assert (third["secret"], third["previous_secret"]) == (SECRET, OTHER_SECRET)


async def test_another_organisations_subscription_is_no_ones_business(database: Database) -> None:
    key = (await _create(database, _subscription())).subscription_id
    async with database.connection() as connection:
        before = await _get(database, key)
        changes = SubscriptionChanges(description="mine")
        assert await subscriptions_repository.update_subscription(connection, "other", key, changes) is None
        assert await subscriptions_repository.pause_subscription(connection, "other", key) is None
        assert await subscriptions_repository.resume_subscription(connection, "other", key) is None
        assert await subscriptions_repository.rotate_secret(connection, "other", key, OTHER_SECRET) is None
        assert not await subscriptions_repository.delete_subscription(connection, "other", key)
        after = await _get(database, key)
        assert {**after, "read_at": None} == {**before, "read_at": None}
        assert await subscriptions_repository.delete_subscription(connection, "acme", key)
        assert not await subscriptions_repository.delete_subscription(connection, "acme", key)
