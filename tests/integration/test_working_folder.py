"""The folders of this machine that handlers work in."""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from millrace_worker.handlers.working_folder import working_folder

_KEEPS_ONE = """
import asyncio
from millrace_worker.handlers.working_folder import working_folder

async def main():
    async with working_folder() as folder:
        (folder / "large").write_bytes(bytes(1000))
        print(folder, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def _entries(folder: Path) -> set[Path]:
    return set(folder.iterdir())


async def test_a_folder_is_gone_afterwards_whatever_happens(temporary: Path) -> None:
    async def work() -> None:
        async with working_folder() as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert _entries(temporary) == set()


async def test_what_a_killed_process_left_is_removed_and_what_others_use_stays(temporary: Path) -> None:
    (temporary / "somebody-else-s").mkdir()
    async with working_folder() as ours:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KEEPS_ONE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        theirs = Path((await process.stdout.readline()).decode().strip())
        async with working_folder():
            assert (theirs / "large").exists()
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        assert (theirs / "large").exists()
        async with working_folder() as another:
            assert _entries(temporary) == {temporary / "somebody-else-s", ours, another}


async def test_nothing_behind_a_link_is_removed(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = tmp_path_factory.mktemp("kept") / "file"
    kept.write_text("x")
    (temporary / "millrace-work-link").symlink_to(kept.parent)
    async with working_folder():
        pass
    assert kept.exists()


async def test_many_at_once_have_one_each(temporary: Path) -> None:
    folders: set[Path] = set()

    async def work() -> None:
        for _ in range(20):
            async with working_folder() as folder:
                folders.add(folder)
                (folder / "file").write_text("x")
                await asyncio.sleep(0)
                assert (folder / "file").exists()

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(work())
    assert len(folders) == 200
    assert _entries(temporary) == set()
