import pytest

from millrace_storage.object_store import MAX_KEY_CHARACTERS, InvalidKeyError, checked_key


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "org-acme/4f/0192e4b1",
        "org-../x",
        "A_b-c.d/e.tar.gz",
        "x" * 255,
        f"{'x' * 255}/{'y' * 254}/z",
    ],
)
def test_keys(key: str) -> None:
    assert checked_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "x" * 256,
        "/etc/passwd",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        ".hidden",
        "a/.hidden",
        "a\0b",
        "a\nb",
        "a\n",
        "a b",
        "a\\b",
        "ä",
        "C:/x",
        "~",
        "x" * (MAX_KEY_CHARACTERS + 1),
    ],
)
def test_anything_else_is_no_key(key: str) -> None:
    with pytest.raises(InvalidKeyError):
        checked_key(key)
