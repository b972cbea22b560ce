"""What the keys of files look like, and what stands before them."""

from uuid import UUID

import pytest

from millrace_storage.file_keys import file_key, prefix_of, staging_key

ID = UUID("01a2130549487162b6f80f64bd021d78")
PREFIXES = ["", "millrace/", "incoming/", "my-incoming/", "a/org-b/", "org-acme/78/"]


def test_files_are_spread_over_folders() -> None:
    assert file_key("a/", "acme", ID) == f"a/org-acme/78/{ID.hex}"
    assert staging_key("a/", ID) == f"a/incoming/78/{ID.hex}"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("org_id", ["acme", "org-acme", ".", "incoming", "x" * 128])
def test_the_prefix_is_what_was_put_before(prefix: str, org_id: str) -> None:
    assert prefix_of(file_key(prefix, org_id, ID)) == prefix
    assert prefix_of(staging_key(prefix, ID)) == prefix


@pytest.mark.parametrize(
    "key",
    [
        "",
        "millrace-owner",
        f"org-acme/78/{ID}",
        f"org-acme/78/{ID.hex}0",
        f"org-acme/{ID.hex}",
        f"org-/78/{ID.hex}",
        f"xincoming/78/{ID.hex}",
        f"org-acme/78/{ID.hex}\n",
    ],
)
def test_other_keys_have_none(key: str) -> None:
    assert prefix_of(key) is None
