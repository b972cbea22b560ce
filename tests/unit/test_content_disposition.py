import re
import unicodedata
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_storage.content_disposition import attachment


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("report.csv", 'attachment; filename="report.csv"'),
        ("with space; and=more.csv", 'attachment; filename="with space; and=more.csv"'),
        ("äöü.csv", "attachment; filename=\"___.csv\"; filename*=UTF-8''%C3%A4%C3%B6%C3%BC.csv"),
        ('a"b\\c%d.csv', "attachment; filename=\"a_b_c_d.csv\"; filename*=UTF-8''a%22b%5Cc%25d.csv"),
        ("a\r\nb", 'attachment; filename="a__b"'),
        ("", 'attachment; filename=""'),
    ],
)
def test_what_is_sent(name: str, header: str) -> None:
    assert attachment(name) == header


@given(st.text(max_size=40))
def test_the_name_arrives_and_nothing_else(name: str) -> None:
    header = attachment(name)
    assert re.fullmatch(r"[\x20-\x7e]*", header)
    wanted = "".join("_" if unicodedata.category(character) == "Cc" else character for character in name)
    message = Message()
    message["Content-Disposition"] = header
    assert message.get_content_disposition() == "attachment"
    plain, encoded = re.fullmatch(
        r"""attachment; filename="([^"\\%]*)"(?:; filename\*=UTF-8''([!#$&+^`|_.~A-Za-z0-9%-]*))?""", header
    ).groups()  # type: ignore[union-attr]
    assert (plain if encoded is None else unquote(encoded, errors="strict")) == wanted
