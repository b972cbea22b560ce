"""Locking tables for a migration while services are at work on them."""

from alembic import op


def lock_tables(*tables: str) -> None:
    """Lock tables against all use until the migration is through.

    Services lock the same tables in one order or another, so that waiting for one while holding another may be a
    deadlock, which would cost them a transaction. So all are locked, or after a moment none, and services go on until
    the next try.

    Raises:
        DBAPIError: tables were in use without a gap for minutes; the migration is to be started again.

    """
    op.execute(
        f"""
        DO $$
        BEGIN
            FOR try IN 1..300 LOOP
                BEGIN
                    -- Shorter than deadlock_timeout, after which Postgres would end one of those that wait.
                    SET LOCAL lock_timeout = '300ms';
                    LOCK TABLE {", ".join(tables)} IN ACCESS EXCLUSIVE MODE;
                    SET LOCAL lock_timeout TO DEFAULT;
                    RETURN;
                EXCEPTION WHEN lock_not_available THEN
                    PERFORM pg_sleep(0.1 + 0.3 * random());
                END;
            END LOOP;
            RAISE EXCEPTION 'the tables {", ".join(tables)} are in use all the time'
                USING ERRCODE = 'lock_not_available';
        END
        $$
        """
    )
