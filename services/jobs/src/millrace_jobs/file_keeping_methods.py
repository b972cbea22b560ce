# ruff: noqa: N802 - the methods have the names of the contract
from millrace.files.v1 import files_service_pb2
from millrace_jobs.file_messages import file_message
from millrace_jobs.file_methods import FileMethods
from millrace_jobs.file_refusals import file_refusals
from millrace_jobs.servicer_parts import Context
from millrace_runtime.resource_keys import check_key


class FileKeepingMethods(FileMethods):
    """The methods that say for how long files are kept."""

    async def PersistFile(
        self, request: files_service_pb2.PersistFileRequest, _context: Context
    ) -> files_service_pb2.PersistFileResponse:
        """Keep a file until somebody deletes it."""
        org_id, file_id = check_key("file", request.org_id, request.file_id)
        with file_refusals(org_id, request.file_id):
            file = await self._store.persist(org_id, file_id)
        return files_service_pb2.PersistFileResponse(file=file_message(file))

    async def DeleteFile(
        self, request: files_service_pb2.DeleteFileRequest, _context: Context
    ) -> files_service_pb2.DeleteFileResponse:
        """Delete a file, for some days or for good."""
        org_id, file_id = check_key("file", request.org_id, request.file_id)
        with file_refusals(org_id, request.file_id):
            file = await self._store.delete(org_id, file_id, permanently=request.permanently)
        return files_service_pb2.DeleteFileResponse(file=None if file is None else file_message(file))

    async def UndeleteFile(
        self, request: files_service_pb2.UndeleteFileRequest, _context: Context
    ) -> files_service_pb2.UndeleteFileResponse:
        """Bring a deleted file back."""
        org_id, file_id = check_key("file", request.org_id, request.file_id)
        with file_refusals(org_id, request.file_id):
            file = await self._store.undelete(org_id, file_id)
        return files_service_pb2.UndeleteFileResponse(file=file_message(file))
