"""The `millrace` command as its own process."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[Any]:
        """Every line of standard output as JSON."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def line(self) -> Any:
        """The only line of standard output as JSON."""
        [line] = self.lines
        return line


@dataclass(frozen=True)
class CommandLine:
    """Runs commands with an environment of their own, and nothing of Millrace from this process's."""

    environment: Mapping[str, str]

    async def start(
        self, *arguments: str, stdout: int = asyncio.subprocess.PIPE
    ) -> asyncio.subprocess.Process:
        """Start a command and let it run."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "millrace_client",
            *arguments,
            env=inherited | dict(self.environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, stdin: bytes = b"") -> Outcome:
        """Run a command to its end."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                stdout, stderr = await process.communicate(stdin)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Outcome(process.returncode, stdout.decode(), stderr.decode())

    async def succeed(self, *arguments: str, stdin: bytes = b"") -> Outcome:
        """Run a command that is to end with exit code 0."""
        outcome = await self.run(*arguments, stdin=stdin)
        assert outcome.code == 0, outcome
        return outcome
