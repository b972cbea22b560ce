"""What S3 checks of a presigned request, and moto does not."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote

from aiohttp import web

_ALGORITHM = "AWS4-HMAC-SHA256"
_LONGEST_SECONDS = 7 * 24 * 3600


def presigned_refusal(request: web.BaseRequest, secret_key: str) -> web.Response | None:
    """What S3 answers to a request whose presigned URL is not, or no more, in order; None: it is, or is none."""
    path, _, query = request.raw_path.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    signature = parameters.pop("X-Amz-Signature", None)
    if signature is None:
        return None
    signed_at = datetime.strptime(parameters["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    seconds = int(parameters["X-Amz-Expires"])
    if seconds > _LONGEST_SECONDS:
        return refusal(400, "AuthorizationQueryParametersError")
    if datetime.now(UTC) > signed_at + timedelta(seconds=seconds):
        return refusal(403, "AccessDenied")
    names = parameters["X-Amz-SignedHeaders"].split(";")
    canonical = "\n".join(
        [
            request.method,
            path,
            "&".join(
                f"{quote(name, safe='')}={quote(parameters[name], safe='')}" for name in sorted(parameters)
            ),
            *(f"{name}:{request.headers.get(name, '').strip()}" for name in names),
            "",
            ";".join(names),
            "UNSIGNED-PAYLOAD",
        ]
    )
    scope = parameters["X-Amz-Credential"].partition("/")[2]
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join([_ALGORITHM, parameters["X-Amz-Date"], scope, hashed])
    key = f"AWS4{secret_key}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    if hmac.digest(key, to_sign.encode(), "sha256").hex() != signature:
        return refusal(403, "SignatureDoesNotMatch")
    return None


def refusal(status: int, code: str) -> web.Response:
    """An error as S3 tells it."""
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>no</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")
