from pathlib import Path
from typing import Any

import pytest

from millrace_database.database import Database
from millrace_database.ids import parse_id
from millrace_worker import JobError
from support.deliveries import end_job
from support.handler_runs import HandlerRuns, call
from support.local_files import local_files

TYPE = "deliveries:storage"


@pytest.fixture
def runs(database: Database, tmp_path: Path) -> HandlerRuns:
    return HandlerRuns(database, local_files(database, tmp_path))


async def _ended(runs: HandlerRuns, path: str, output: Any, **schedule: Any) -> None:
    async with runs.database.transaction() as conn:
        await end_job(conn, {"storage": {"path": path}}, output, **schedule)


async def test_the_file_is_copied_under_its_path(runs: HandlerRuns) -> None:
    file_id = await runs.upload(b"a;b\n", "sales.csv")
    await _ended(
        runs, "{{schedule_name}}/{{scheduled_date}}/{{file_name}}", {"file_id": file_id}, name="../N/S"
    )
    context = await runs.claimed(TYPE)
    output = await call(context)
    assert output.path == ".._N_S/2026-03-29/sales.csv"
    assert output.bytes == 4
    copy = await runs.record(output.file_id)
    assert copy.state == "persistent"
    assert (copy.name, copy.content_type, copy.job_id) == (
        output.path,
        "text/csv",
        parse_id("job", context.job_id),
    )
    assert output.file_id != file_id
    assert await runs.content(output.file_id) == b"a;b\n"


async def test_a_path_holds_nothing_that_a_name_may_not_hold(runs: HandlerRuns) -> None:
    file_id = await runs.upload(b"a", "a.txt")
    await _ended(runs, "x\u202ey/{{schedule_name}}\x85", {"file_id": file_id}, name="N\u2066S\\\u2028\x9b")
    assert (await call(await runs.claimed(TYPE))).path == "x_y/N_S____"


@pytest.mark.parametrize("output", [{}, {"file_id": 7}, {"file_id": "file_" + "0" * 32}])
async def test_without_a_file_there_is_nothing_to_keep(runs: HandlerRuns, output: dict[str, Any]) -> None:
    await _ended(runs, "x", output)
    with pytest.raises(JobError) as raised:
        await call(await runs.claimed(TYPE))
    assert (raised.value.code, raised.value.retryable) == ("NO_FILE", False)


async def test_a_file_of_another_organisation_is_not_kept(runs: HandlerRuns) -> None:
    file_id = await runs.upload(b"secret", "plans.txt", org_id="umbrella")
    await _ended(runs, "x", {"file_id": file_id})
    with pytest.raises(JobError) as raised:
        await call(await runs.claimed(TYPE))
    assert raised.value.code == "NO_FILE"


@pytest.mark.parametrize("name", ["..", " "])
async def test_a_variable_does_not_lead_out_of_the_path(runs: HandlerRuns, name: str) -> None:
    file_id = await runs.upload(b"a", "a.txt")
    await _ended(runs, "reports/{{schedule_name}}/a", {"file_id": file_id}, name=name)
    with pytest.raises(JobError) as raised:
        await call(await runs.claimed(TYPE))
    assert (raised.value.code, raised.value.retryable) == ("INVALID_PATH", False)
