"""Answers that say all is well and are not S3's, as of a proxy that has something to tell, or of a server that broke off."""

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

# These are answered by a document whose root is called something like ListBucketResult.
_WITH_RESULT = frozenset(
    {
        "CompleteMultipartUpload",
        "CopyObject",
        "CreateMultipartUpload",
        "DeleteObjects",
        "ListMultipartUploads",
        "ListObjectsV2",
    }
)
_WITH_ETAG = frozenset({"GetObject", "HeadObject", "PutObject", "UploadPart"})
_STREAMED = frozenset({"GetObject"})
_SUCCESSES = frozenset({HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT})
# When there is no error to tell of, who was asked to tell nothing else may tell nothing at all.
_WITHOUT_BODY = frozenset({"DeleteObjects"})
# Possessive throughout: nothing is tried twice, however much white space and however many comments there are.
_RESULT = re.compile(
    rb"(?:\xef\xbb\xbf)?+\s*+(?:<\?xml[^>]*+>\s*+)?+(?:<!--(?>.*?-->)\s*+)*+<(?:[\w.-]+:)?\w*Result[\s/>]",
    re.DOTALL,
)


def distrust_answers(client: "S3Client") -> None:
    """Take for failures of the server, which may pass, answers that S3 does not give to what was asked. May be called again."""
    client.meta.events.register("before-parse.s3", _check, unique_id="millrace-answers")


def _check(operation_model: Any, response_dict: dict[str, Any], **_: object) -> None:
    operation = operation_model.name
    if response_dict["status_code"] in _SUCCESSES and not _is_of_s3(
        operation, response_dict["headers"], response_dict["body"]
    ):
        if operation in _STREAMED:
            response_dict["body"].close()
            response_dict["body"] = b""
        response_dict["status_code"] = HTTPStatus.INTERNAL_SERVER_ERROR.value


def _is_of_s3(operation: str, headers: Any, body: bytes) -> bool:
    if operation in _WITH_RESULT:
        return bool(_RESULT.match(body)) or (not body and operation in _WITHOUT_BODY)
    return operation not in _WITH_ETAG or "etag" in headers
