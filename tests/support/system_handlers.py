"""A system schedule that goes on until a file is there, and says where it is."""

import asyncio
import os
from pathlib import Path

from millrace_worker import SystemContext, system_schedule


@system_schedule("slow:work", "0 0 1 1 *")
async def work(context: SystemContext) -> None:
    """Wait for a file."""
    folder = Path(os.environ["SLOW_WORK_FOLDER"])
    (folder / f"attempt-{context.attempt}").write_text(context.run_id)
    while not (folder / "end").exists():
        await asyncio.sleep(0.02)
