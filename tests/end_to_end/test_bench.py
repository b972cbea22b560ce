import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.figures import FIGURES

_TESTS = Path(__file__).parents[1]
_KEYS = {
    "name",
    "unit",
    "value",
    "lowest",
    "highest",
    "of",
    "ratio",
    "lowest_ratio",
    "highest_ratio",
    "goal",
    "met",
}


# Those that start few processes; each of the others is made of the same parts.
_TAKEN = ["bulk", "pick-up", "waiting"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as the socket of a server needs."""
    with tempfile.TemporaryDirectory(prefix="mb-") as name:
        yield Path(name)


@pytest.mark.timeout(180)
async def test_the_benchmark_prints_and_writes_figures(folder: Path) -> None:
    written = folder / "bench.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "--quick", "--json", str(written), *_TAKEN),
        env={**os.environ, "PYTHONPATH": str(_TESTS), "TMPDIR": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()

    assert process.returncode == 0, errors.decode()
    figures = json.loads(written.read_text())["figures"]
    assert list(figures) == _TAKEN
    assert set(_TAKEN) < set(FIGURES)
    lines = [line for figure in figures.values() for line in figure]
    assert all(set(line) == _KEYS for line in lines)
    assert all(line["value"] >= 0 for line in lines)
    assert all((line["ratio"] is None) == (line["of"] == "") for line in lines)
    assert all((line["goal"] is None) == (line["met"] is None) for line in lines)
    table = output.decode()
    assert all(line["name"] in table for line in lines)
    # Nothing is left of the server.
    assert _names(folder) == ["bench.json"]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
