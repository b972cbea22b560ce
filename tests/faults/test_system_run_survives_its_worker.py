from pathlib import Path

from millrace_database.database import Database
from support.polling import eventually
from support.processes import stack
from support.system_runs import ended, make_due


async def test_a_system_run_survives_the_death_of_its_worker(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    settings = {
        "MILLRACE_LEASE_SECONDS": "2",
        "MILLRACE_HEARTBEAT_SECONDS": "0.5",
        "MILLRACE_HANDLERS": "support.system_handlers",
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "SLOW_WORK_FOLDER": str(tmp_path),
    }

    async def started(attempt: int) -> str:
        file = tmp_path / f"attempt-{attempt}"
        return file.read_text() if file.exists() else ""

    async with stack(database_url, tmp_path, names=("scheduler", "worker"), settings=settings) as services:
        await make_due(database, "slow:work")
        run_id = await eventually(lambda: started(1))
        await services.worker.kill()
        await services.worker.start()
        assert await eventually(lambda: started(2)) == run_id
        (tmp_path / "end").touch()
        row = await ended(database, "slow:work")

    assert (f"system_{row['last_run_id'].hex}", row["last_outcome"]) == (run_id, "completed")
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM queue") == 0
