"""Every list is served by an index, for its first page and for any other, by the plan Postgres keeps."""

import pytest

from millrace_database import (
    Database,
    datasets_repository,
    firing_statements,
    job_types_repository,
    schedule_statements,
    workers_repository,
)


async def _generic_plan(database: Database, statement: str) -> str:
    parameters = max(number for number in range(1, 20) if f"${number}::" in statement)
    async with database.transaction() as connection:
        # What remains is what cannot be done without: the tables of a test are too small for the planner's own choice.
        for switched_off in ("enable_seqscan", "enable_sort", "enable_bitmapscan"):
            await connection.execute(f"SET LOCAL {switched_off} = off")
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE explained AS {statement}")
        nulls = ", ".join(["NULL"] * parameters)
        lines = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE explained ({nulls})")
        await connection.execute("DEALLOCATE explained")
    return "\n".join(line[0] for line in lines)


@pytest.mark.parametrize(
    ("statement", "index", "condition"),
    [
        (schedule_statements.LIST_OF_ORG, "scheduled_jobs_kept", "(org_id = $8) AND (schedule_id <"),
        (schedule_statements.LIST_ALL, "scheduled_jobs_pkey", "(schedule_id <"),
        (firing_statements.RESERVE_DUE, "scheduled_jobs_due", "(next_run_at <= now())"),
        (
            schedule_statements.GET_BY_REQUEST,
            "scheduled_jobs_request_id",
            "(org_id = $1) AND (request_id = $2)",
        ),
        (job_types_repository._LIST, "job_types_pkey", "(type >"),
        (workers_repository._LIST, "queue_workers_pkey", "(worker_id >"),
        (
            datasets_repository._READ_ROWS,
            "dataset_rows_pkey",
            "(dataset_id = $1) AND (job_id = $2) AND (row_number > $3)",
        ),
        (datasets_repository._GET_DATASET, "datasets_by_name", "(org_id = $1) AND (name = $2)"),
        (datasets_repository._COUNT_ROWS, "dataset_imports_by_dataset", "(dataset_id = $1)"),
    ],
)
async def test_the_plan_of_a_list(database: Database, statement: str, index: str, condition: str) -> None:
    plan = await _generic_plan(database, statement)
    assert f"using {index} on" in plan
    assert f"Index Cond: ({condition}" in plan or f"Index Cond: {condition}" in plan
