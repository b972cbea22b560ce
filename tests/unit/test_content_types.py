import bz2
import gzip
import io
import json
import lzma
import random
import sqlite3
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import openpyxl
import polars as pl
import pytest
from fpdf import FPDF
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from millrace_storage.content_types import (
    HEAD_BYTES,
    actual_type,
    is_allowed,
    normalised_type,
    recognised_type,
)


def _png() -> bytes:
    def part(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = part(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(bytes(4))) + part(b"IEND", b"")


def _image(kind: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 200, 3)).save(content, kind)
    return content.getvalue()


def _pdf() -> bytes:
    document = FPDF()
    document.add_page()
    document.set_font("helvetica")
    document.cell(text="hello")
    return bytes(document.output())


def _zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.txt", "hello")
    return content.getvalue()


def _xlsx() -> bytes:
    content = io.BytesIO()
    openpyxl.Workbook().save(content)
    return content.getvalue()


def _parquet() -> bytes:
    content = io.BytesIO()
    pl.DataFrame({"a": [1, 2]}).write_parquet(content)
    return content.getvalue()


def _tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return content.getvalue()


def _sqlite() -> bytes:
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE a (b)")
        return database.serialize()


_ELF = Path(sys.executable).read_bytes()[:HEAD_BYTES]
_HTML = b"<!DOCTYPE html>\n<html><body>hello</body></html>\n"
_SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>\n'
_CSV = "id,name\n1,Zürich\n2,Genève\n"
_XLSX_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_DOCX_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

_RECOGNISED = {
    "image/png": _png(),
    "image/jpeg": _image("JPEG"),
    "image/gif": _image("GIF"),
    "image/webp": _image("WEBP"),
    "image/tiff": _image("TIFF"),
    "application/pdf": _pdf(),
    "application/zip": _zip(),
    "application/gzip": gzip.compress(b"hello" * 9),
    "application/x-xz": lzma.compress(b"hello" * 9),
    "application/x-tar": _tar(),
    "application/x-executable": _ELF,
    "application/vnd.sqlite3": _sqlite(),
    "video/mp4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(20),
}

# What is text, some of which begins as something else would.
_TEXTS = {
    "csv": _CSV.encode(),
    "csv with a mark": _CSV.encode("utf-8-sig"),
    "csv of Windows": _CSV.encode("cp1252"),
    "json": b'{"a": [1, 2, "\xc3\xbc"]}',
    "json lines": b'{"a": 1}\n{"a": 2}\n',
    "html": _HTML,
    "svg": _SVG,
    "yaml": b"a: 1\nb:\n  - 2\n",
    "script": b"#!/bin/sh\nexit 0\n",
    "BM": b"BM,value\n1,2\n",
    "GIF": b"GIF89a,name\n1,2\n",
    "II": b"II,MM\n1,2\n",
    "ID3 of Windows": "ID3,Größe\n1,2\n".encode("cp1252"),
    "MZ": b"MZ,name\n1,2\n",
    "PK": b"PK,name\n1,2\n",
    "Rar": b"Rar!,name\n1,2\n",
    "RIFF": b"RIFF,x,WAVE\n1,2\n",
    "%PDF": b"%PDF is a format\n",
    "BZh": b"BZh9,name\n",
    "PAR1": b"PAR1,name\n",
}


@pytest.mark.parametrize("content_type", _RECOGNISED)
def test_content_that_is_plainly_something_is_called_so_whatever_it_is_given_as(content_type: str) -> None:
    head = _RECOGNISED[content_type][:HEAD_BYTES]

    assert recognised_type(head) == content_type
    for given_type in (
        "application/octet-stream",
        "text/csv",
        "application/json",
        "font/ttf",
        content_type,
    ):
        assert actual_type(given_type, head) == content_type
    other = "image/png" if content_type != "image/png" else "image/gif"
    assert actual_type(other, head) == content_type


@pytest.mark.parametrize("name", _TEXTS)
def test_a_text_is_never_taken_for_something_else(name: str) -> None:
    head = _TEXTS[name]

    assert recognised_type(head) is None
    for given_type in ("text/csv", "application/json", "image/svg+xml", "application/octet-stream"):
        assert actual_type(given_type, head) == given_type


@pytest.mark.parametrize(
    ("head", "content_type"),
    [(_CSV.encode(), "text/plain"), (_HTML, "text/html"), (_SVG, "image/svg+xml"), (b"{}", "text/plain")],
)
@pytest.mark.parametrize("given_type", ["image/png", "application/pdf", "application/zip", "image/jpg"])
def test_a_text_under_the_name_of_something_else_is_a_text(
    head: bytes, content_type: str, given_type: str
) -> None:
    assert actual_type(given_type, head) == content_type


@pytest.mark.parametrize(
    "begins",
    [
        b"<!-- made by hand -->\n<svg>",
        b"\n\n <?xml version='1.0'?>\n<!-- a --> <!-- b -- c -->\n<!DOCTYPE svg PUBLIC 'x'>\n<svg\n>",
        b"<!---->" * 1000 + b"<svg >",
        b" " * 8000 + b"<svg>",
    ],
    ids=["comment", "everything", "comments", "white space"],
)
def test_a_drawing_is_known_behind_what_may_stand_before_it(begins: bytes) -> None:
    assert actual_type("image/png", begins) == "image/svg+xml"
    assert actual_type("image/png", begins.replace(b"<svg", b"<sv")) == "text/plain"


@pytest.mark.parametrize(
    "piece", [b" ", b"<!---->", b"<!--", b"<!----> ", b"<?xml?>", b"<?xml>", b"<!DOCTYPE svg>", b"<", b"-->"]
)
def test_no_text_keeps_a_process_busy_that_looks_at_it(piece: bytes) -> None:
    code = (
        "from millrace_storage.content_types import HEAD_BYTES, actual_type\n"
        f"print(actual_type('image/png', ({piece!r} * HEAD_BYTES)[:HEAD_BYTES]))"
    )

    # What does not end within a minute here would not within a year.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "text/plain\n"


@pytest.mark.parametrize(
    ("given_type", "content"),
    [
        (_XLSX_TYPE, _xlsx()),
        (_DOCX_TYPE, _zip()),
        ("application/epub+zip", _zip()),
        ("application/java-archive", _zip()),
        ("application/x-zip-compressed", _zip()),
        ("application/x-gtar-compressed", gzip.compress(b"a", mtime=0)),
        ("application/illustrator", _pdf()),
        ("image/x-canon-cr2", _image("TIFF")),
        ("audio/mp4", _RECOGNISED["video/mp4"]),
        ("image/jpg", _image("JPEG")),
        ("IMAGE/PNG; q=1", _png()),
        ("application/vnd.apache.parquet", _parquet()),
        ("application/x-bzip2", bz2.compress(b"hello")),
        ("text/csv; charset=utf-16", _CSV.encode("utf-16")),
        ("image/bmp", _image("BMP")),
        ("image/png", random.Random(1).randbytes(HEAD_BYTES)),  # noqa: S311
        ("application/x-mine", bytes(1000)),
        ("image/png", b""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_within_something_known_or_is_not_known_stays_as_it_is_given(
    given_type: str, content: bytes
) -> None:
    assert actual_type(given_type, content[:HEAD_BYTES]) == given_type


@given(st.text())
def test_no_text_is_recognised(text: str) -> None:
    head = text.encode()[:HEAD_BYTES]

    assert actual_type("text/plain", json.dumps(text).encode()) == "text/plain"
    if not any(character < " " or character == "\x7f" for character in text):
        assert actual_type("text/plain", head) in ("text/plain", "application/pdf")


@given(st.binary(max_size=200))
def test_any_content_has_some_type(head: bytes) -> None:
    assert actual_type("application/octet-stream", head)


@pytest.mark.parametrize(
    ("content_type", "patterns", "is_in"),
    [
        ("text/csv; charset=utf-8", ["text/*"], True),
        ("TEXT/CSV", [" Text/csv "], True),
        ("text/csv", ["application/pdf", "text/*"], True),
        ("text/csv", ["text/html", "image/*"], False),
        ("textual/csv", ["text/*"], False),
        ("a/b", ["*/*"], True),
        ("a/b", [], True),
    ],
)
def test_what_types_are_allowed(content_type: str, patterns: list[str], is_in: bool) -> None:
    assert is_allowed(content_type, patterns) is is_in


@pytest.mark.parametrize(
    ("given_type", "normalised"),
    [
        ("Text/CSV", "text/csv"),
        ("TEXT/csv; Charset=UTF-8", "text/csv; Charset=UTF-8"),
        ("Text/CSV ;header=Absent", "text/csv;header=Absent"),
        ("text/csv;", "text/csv"),
        ("", ""),
    ],
)
def test_a_type_is_in_lower_case_and_its_parameters_are_as_they_were(
    given_type: str, normalised: str
) -> None:
    assert normalised_type(given_type) == normalised
