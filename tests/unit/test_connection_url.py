import pytest

from millrace_database.connection_url import asyncpg_dsn, normalise_url, with_database


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("postgres://me@db/app", "postgresql+asyncpg://me@db/app"),
        ("postgresql://me:p%40ss@db:5433/app", "postgresql+asyncpg://me:p%40ss@db:5433/app"),
        ("postgresql+asyncpg://me@db/app", "postgresql+asyncpg://me@db/app"),
        ("postgresql://me@/app?host=/run/pg", "postgresql+asyncpg://me@/app?host=%2Frun%2Fpg"),
        ("postgresql://me@db/app?sslmode=require", "postgresql+asyncpg://me@db/app?ssl=require"),
    ],
)
def test_all_common_forms_become_one(url: str, normal: str) -> None:
    assert normalise_url(url) == normal
    assert normalise_url(normal) == normal


def test_the_driver_gets_its_own_words_back() -> None:
    url = normalise_url("postgres://me@/app?host=/run/pg&sslmode=verify-full")
    assert asyncpg_dsn(url) == "postgresql://me@/app?host=%2Frun%2Fpg&sslmode=verify-full"


def test_another_database_of_the_same_server() -> None:
    assert with_database("postgres://me@db/one", "two") == "postgresql+asyncpg://me@db/two"


@pytest.mark.parametrize("url", ["mysql://me:secret@db/app", "sqlite://", "no url with secret", ""])
def test_other_urls_are_refused_without_telling_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="database URL") as refusal:
        normalise_url(url)
    assert "secret" not in str(refusal.value)
