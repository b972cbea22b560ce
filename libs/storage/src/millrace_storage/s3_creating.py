"""Writing an object of S3 that is not to replace another one."""

import base64
import hashlib
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from millrace_storage.s3_errors import error_code, s3_errors, status

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_THERE_IS_ONE = 412
_KNOWS_NO_CONDITIONS = 501


async def create_object(client: "S3Client", bucket: str, key: str, content: bytes) -> bool:
    """Do as `ObjectStore.create` says."""
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    with s3_errors():
        try:
            await client.put_object(Bucket=bucket, Key=key, Body=content, ContentMD5=md5, IfNoneMatch="*")
        except ClientError as error:
            if status(error) == _THERE_IS_ONE:
                return False
            if status(error) != _KNOWS_NO_CONDITIONS and error_code(error) != "NotImplemented":
                raise
            await client.put_object(Bucket=bucket, Key=key, Body=content, ContentMD5=md5)
    return True
