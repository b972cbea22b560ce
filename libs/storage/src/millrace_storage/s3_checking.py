"""Finding out whether a bucket of S3 can be used."""

from typing import TYPE_CHECKING

from botocore.exceptions import (
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from millrace_storage.object_store import StoreUnusableError
from millrace_storage.s3_errors import s3_errors, status

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_NOT_THERE = 404


async def check_bucket(client: "S3Client", bucket: str) -> None:
    """Ask for a bucket.

    Raises:
        StoreUnusableError: there is none, or there are no credentials to ask with.
        StoreRefusedError, StoreUnavailableError: the server does not say.

    """
    with s3_errors():
        try:
            await client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if status(error) == _NOT_THERE:
                server = client.meta.endpoint_url
                raise StoreUnusableError(f"MILLRACE_S3_BUCKET: {server} has no bucket {bucket}") from None
            raise
        except ParamValidationError:
            raise StoreUnusableError("MILLRACE_S3_BUCKET: this is no name of a bucket") from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreUnusableError(
                f"there are no credentials for the bucket {bucket} (MILLRACE_S3_BUCKET): set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY, or use a profile or role of AWS ({type(error).__name__})"
            ) from None
