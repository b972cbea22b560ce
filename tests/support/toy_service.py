# ruff: noqa: N802, ARG002 - the methods of a generated servicer
"""A service that does nothing useful: what the runtime does around it is what its users see.

Run as a program it is a process of its own, made to misbehave by its arguments.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from millrace.files.v1 import file_pb2, files_service_pb2, files_service_pb2_grpc
from millrace_database.database import Database
from millrace_runtime.serve_command import run_process
from millrace_runtime.service import Component, ServiceDefinition
from millrace_runtime.settings import Settings, read_settings
from millrace_runtime.supervised import SupervisorLink

SERVICE = "millrace.files.v1.FilesService"


@dataclass
class Toy(files_service_pb2_grpc.FilesServiceServicer):
    """Answers with an empty file, or with `error`; `events` says what happened to it, in order."""

    error: Exception | None = None
    events: list[str] = field(default_factory=list)
    opening: Callable[[], None] = lambda: None
    drain: Callable[[], Coroutine[Any, Any, None]] | None = None
    duty: Callable[[], Coroutine[Any, Any, None]] | None = None
    get_file: Callable[[], Coroutine[Any, Any, None]] | None = None

    @property
    def definition(self) -> ServiceDefinition:
        return ServiceDefinition(name="toy", port=lambda settings: settings.jobs_port, open=self._open)

    async def GetFile(self, request: files_service_pb2.GetFileRequest, context: Any) -> Any:
        if self.get_file is not None:
            await self.get_file()
        self._raise()
        return files_service_pb2.GetFileResponse(file=file_pb2.File(org_id=request.org_id))

    async def ListFiles(self, request: files_service_pb2.ListFilesRequest, context: Any) -> Any:
        return files_service_pb2.ListFilesResponse()

    async def DownloadFile(self, request: files_service_pb2.DownloadFileRequest, context: Any) -> Any:
        yield files_service_pb2.DownloadFileResponse(chunk=b"first")
        self._raise()

    async def UploadFile(self, request_iterator: Any, context: Any) -> Any:
        size = 0
        async for request in request_iterator:
            size += len(request.chunk)
        self._raise()
        return files_service_pb2.UploadFileResponse(file=file_pb2.File(size_bytes=size))

    async def _answer(self, request: Any, context: Any) -> Any:
        raise AssertionError("nobody calls it")

    InitiateUpload = ConfirmUpload = CancelUpload = ListUploads = GetDownloadUrl = PersistFile = _answer
    DeleteFile = UndeleteFile = GetFileUsage = UpdateFileLimits = _answer

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    @asynccontextmanager
    async def _open(self, _settings: Settings, _database: Database) -> AsyncIterator[Component]:
        self.opening()
        self.events.append("opened")

        def add_files(server: grpc.aio.Server) -> None:
            files_service_pb2_grpc.add_FilesServiceServicer_to_server(self, server)

        try:
            yield Component(
                servicers={SERVICE: add_files},
                background=[self._duty],
                drain=self._drain,
                started=self._started,
            )
        finally:
            self.events.append("closed")

    async def _started(self, address: str) -> None:
        self.events.append(f"started at {address}")

    async def _drain(self) -> None:
        self.events.append("drained")
        if self.drain is not None:
            await self.drain()

    async def _duty(self) -> None:
        try:
            await (self.duty or _forever)()
        finally:
            self.events.append("duty ended")


async def _forever() -> None:
    await asyncio.Event().wait()


async def _fail() -> None:
    raise RuntimeError("the duty failed")


async def _block() -> None:
    time.sleep(3600)  # noqa: ASYNC251 - the misbehaviour that is wanted


def main(arguments: list[str]) -> int:
    """Run the toy as this process. Arguments: failing-duty, endless-drain, blocking-drain, supervised."""
    toy = Toy()
    if "failing-duty" in arguments:
        toy.duty = _fail
    if "endless-drain" in arguments:
        toy.drain = _forever
    if "blocking-drain" in arguments:
        toy.drain = _block
    link = SupervisorLink() if "supervised" in arguments else None
    exit_code = run_process(toy.definition, read_settings(), link)
    sys.stdout.write(f"{' '.join(toy.events)}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
