"""What kind of content a file has, by its first bytes."""

import codecs
import re
from collections.abc import Sequence

import puremagic

HEAD_BYTES = 8 * 1024
"""How much of a file is looked at."""

_TEXT = "text/plain"
_UNKNOWN = "application/octet-stream"

# What is recognised, by the names that puremagic has for it, and what it is called here. All have signatures that no other
# content has; what is left out has a weak one, or none.
_SIGNATURES = {
    "image/png": "image/png",
    "image/jpeg": "image/jpeg",
    "image/gif": "image/gif",
    "image/webp": "image/webp",
    "image/tiff": "image/tiff",
    "application/pdf": "application/pdf",
    "application/x-gzip": "application/gzip",
    "application/x-xz": "application/x-xz",
    "application/zstd": "application/zstd",
    "application/x-7z-compressed": "application/x-7z-compressed",
    "application/vnd.rar": "application/vnd.rar",
    "application/x-tar": "application/x-tar",
    "application/x-sqlite3": "application/vnd.sqlite3",
    "application/vnd.microsoft.portable-executable": "application/vnd.microsoft.portable-executable",
    "video/mp4": "video/mp4",
}
# What puremagic has no name for, or too many.
_SIGNATURES_OF_BYTES = {b"PK\x03\x04": "application/zip", b"\x7fELF": "application/x-executable"}
_KNOWN = frozenset([*_SIGNATURES.values(), *_SIGNATURES_OF_BYTES.values()])
_OTHER_NAMES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/apng": "image/png",
    "image/x-png": "image/png",
    "application/x-pdf": "application/pdf",
    "application/x-gzip": "application/gzip",
    "application/x-zip-compressed": "application/zip",
    "application/x-zip": "application/zip",
    "application/x-zstd": "application/zstd",
    "application/x-rar-compressed": "application/vnd.rar",
    "application/x-sqlite3": "application/vnd.sqlite3",
    "application/x-elf": "application/x-executable",
    "application/x-msdownload": "application/vnd.microsoft.portable-executable",
}
# These are nothing but what they are. The others may be the hull of something that has a name of its own, as a zip is of a
# spreadsheet.
_EXACT = frozenset(["image/png", "image/jpeg", "image/gif", "image/webp"])
_HULLS_OF_OTHERS = {"video/mp4": ("video", "audio", "image")}
_TEXT_TYPE = re.compile(
    r"text/.*|.*[/+](json|xml|yaml)|application/(.*json.*|.*javascript|sql|csv|toml|x-sh)"
)

_PDF = re.compile(rb"%PDF-[0-9]\.[0-9]")
_HTML = re.compile(rb"\s*(<!doctype html|<html[\s>])", re.IGNORECASE)
# Possessive throughout: nothing is tried twice, whatever somebody makes of white space and comments.
_SVG = re.compile(
    rb"\s*+(<\?xml[^>]*+>\s*+)?+(<!--(?>.*?-->)\s*+)*+(<!DOCTYPE svg[^>]*+>\s*+)?+<svg[\s>]", re.DOTALL
)
_NOT_IN_TEXT = bytes([*range(7), *range(14, 27), *range(28, 32), 11, 127])
_PRINTED = bytes(range(32, 127))
_LONG_ENOUGH_BYTES = 5


def actual_type(given: str, head: bytes) -> str:
    """Return the media type of a file: `given`, unless its content is plainly something else.

    Types that are text, or hide in a zip or another hull, stay as they are given, and so does what is not recognised.
    """
    base = media_type(given)
    known = _OTHER_NAMES.get(base, base)
    found = recognised_type(head)
    if found is None:
        return _text_type(head) if known in _KNOWN and _is_utf8(head) else given
    if found == known or (found not in _EXACT and _may_be_in(found, known)):
        return given
    return found


def recognised_type(head: bytes) -> str | None:
    """Return the media type that the first bytes of a file are an unmistakable sign of, or None."""
    if _PDF.match(head):
        return "application/pdf"
    if _is_text(head):
        return None
    try:
        matches = puremagic.magic_string(head)
    except puremagic.PureError:
        return None
    for match in matches:
        found = _SIGNATURES.get(match.mime_type) or _SIGNATURES_OF_BYTES.get(match.byte_match)
        # Where something ends says nothing here: the end of the head is not that of the file.
        if found is not None and match.offset >= 0 and _is_strong(match.byte_match):
            return found
    return None


def is_allowed(content_type: str, patterns: Sequence[str]) -> bool:
    """Tell whether a media type is one of `patterns`, such as "text/*"; without any, all are."""
    if not patterns:
        return True
    base = media_type(content_type)
    family = f"{base.partition('/')[0]}/*"
    return any(pattern.strip().lower() in (base, family, "*/*", "*") for pattern in patterns)


def normalised_type(content_type: str) -> str:
    """Return a media type in lower case, with its parameters, if it has any, as they are."""
    base, _, parameters = content_type.partition(";")
    return f"{base.strip().lower()};{parameters}" if parameters.strip() else base.strip().lower()


def media_type(content_type: str) -> str:
    """Return a media type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def _may_be_in(found: str, known: str) -> bool:
    """Tell whether something of the type `known` may begin as all things of the type `found` do."""
    if known == _UNKNOWN or known in _KNOWN or _TEXT_TYPE.fullmatch(known):
        return False
    hulls = _HULLS_OF_OTHERS.get(found, (found.partition("/")[0],))
    return known.partition("/")[0] in hulls


def _is_strong(signature: bytes | str | None) -> bool:
    """Tell whether a signature could not stand at the beginning of a text by chance."""
    if not isinstance(signature, bytes) or len(signature) < 3:
        return False
    return len(signature) >= _LONG_ENOUGH_BYTES or bool(signature.translate(None, _PRINTED))


def _is_text(head: bytes) -> bool:
    """Tell whether there is nothing but what stands in texts, in whatever one of the encodings that go on from ASCII."""
    return not head.translate(None, bytes(set(range(256)) - set(_NOT_IN_TEXT)))


def _is_utf8(head: bytes) -> bool:
    if not head or not _is_text(head):
        return False
    try:
        # Its last character may be cut.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _text_type(head: bytes) -> str:
    if _HTML.match(head):
        return "text/html"
    return "image/svg+xml" if _SVG.match(head) else _TEXT
