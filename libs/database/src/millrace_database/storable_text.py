def storable(text: str) -> str:
    """Return text that Postgres can hold: one message it refuses would fail all that are written with it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
