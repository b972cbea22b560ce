"""Which documents are taken for answers of S3."""

import pytest

from millrace_storage.s3_answers import _is_of_s3

_XML = b'<?xml version="1.0" encoding="UTF-8"?>'


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("CompleteMultipartUpload", b" \n \n" + _XML + b"\n<CompleteMultipartUploadResult xmlns='x'/>"),
        ("CompleteMultipartUpload", _XML + b"  \r\n <ns2:CompleteMultipartUploadResult>"),
        ("DeleteObjects", _XML + b"<DeleteResult/>"),
        ("DeleteObjects", b""),
        ("ListObjectsV2", b"\xef\xbb\xbf" + _XML + b"<!-- a --> <!-- b --><ListBucketResult>"),
    ],
)
def test_answers_of_s3_are_known(operation: str, body: bytes) -> None:
    assert _is_of_s3(operation, {}, body)


# What is tried again and again would take longer than anybody waits for.
@pytest.mark.parametrize("body", [b"<!-- -->" * 200 + b"<html>", b" " * 500_000 + b"<html>"])
def test_pages_of_others_are_told_apart_at_once(body: bytes) -> None:
    assert not _is_of_s3("ListObjectsV2", {}, body)
