"""The queue policies of pg-boss, spelled in Millrace: each script has the outcome that it has with pg-boss itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace_database.database import Database
from support import pg_boss_queue
from support.pg_boss_queue import PgBossQueue

_TRANSCRIPT = Path(pg_boss_queue.__file__).with_name("pg_boss_12_38.txt")


def _scripts() -> Iterator[tuple[str, list[str]]]:
    """The heading of each script, `policy: what it shows`, and its steps."""
    for script in _TRANSCRIPT.read_text().split("== ")[1:]:
        heading, *steps = script.strip().splitlines()
        yield heading, steps


_POLICIES = list(dict.fromkeys(heading.split(":")[0] for heading, _ in _scripts()))


@pytest.mark.parametrize("policy", _POLICIES)
async def test_a_policy_has_the_outcomes_of_pg_boss(database: Database, policy: str) -> None:
    """A step is `command | outcome with pg-boss`, and ` | outcome here` where that is another one."""
    recorded, played = [], []
    for number, (heading, steps) in enumerate(_scripts()):
        if heading.split(":")[0] != policy:
            continue
        recorded += [heading, *steps]
        played.append(heading)
        async with PgBossQueue.opened(database, policy, f"pg-boss:{number}") as queue:
            for step in steps:
                command, expected, *_ = step.split(" | ")
                outcome = await queue.play(command)
                played.append(f"{command} | {expected}" + (f" | {outcome}" if outcome != expected else ""))
    assert played == recorded
