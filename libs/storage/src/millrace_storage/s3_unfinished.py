"""What writers to S3 have begun and not ended."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from millrace_storage.object_store import UnfinishedWrite
from millrace_storage.s3_errors import error_code, s3_errors
from millrace_storage.s3_pages import is_key, may_begin_keys, pages

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

# The latter where the bucket is empty otherwise.
_GONE = frozenset({"NoSuchUpload", "NoSuchKey"})


async def list_uploads(client: "S3Client", bucket: str, prefix: str) -> AsyncIterator[UnfinishedWrite]:
    """Yield the multipart uploads of the keys that start with `prefix`."""
    if not may_begin_keys(prefix):
        return
    found = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    async for page in pages(found):
        for upload in page.get("Uploads", ()):
            key = upload["Key"]
            # One server gives all uploads, whatever the prefix.
            if is_key(key) and key.startswith(prefix):
                yield UnfinishedWrite(key, upload["UploadId"], upload["Initiated"])


async def abort_upload(client: "S3Client", bucket: str, key: str, upload_id: str) -> None:
    """Remove the parts of an upload; nothing happens when it is not there any more."""
    with s3_errors():
        try:
            await client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
        except ClientError as error:
            if error_code(error) not in _GONE:
                raise
