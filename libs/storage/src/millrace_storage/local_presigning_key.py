import os
import secrets
from contextlib import suppress
from pathlib import Path

from millrace_storage.object_store import StoreRefusedError

# No key of an object begins so.
_NAME = ".presigning-key"
_BYTES = 32


def local_presigning_key(root: Path) -> bytes:
    """Return the secret that signs presigned requests of a folder, made by whichever process needs it first.

    Blocks. Raises StoreRefusedError when the file holds no such secret, and OSError.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _read(root)
    except FileNotFoundError:
        _make(root)
        return _read(root)


def _read(root: Path) -> bytes:
    file = os.open(root / _NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as reader:
        secret = reader.read(_BYTES + 1)
    if len(secret) != _BYTES:
        raise StoreRefusedError(f"the file {_NAME} is damaged: without it, a new one is made")
    return secret


def _make(root: Path) -> None:
    """Make the file as a whole, unless another process was faster."""
    new = root / f"{_NAME}.{secrets.token_hex(8)}"
    try:
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as writer:
            writer.write(secrets.token_bytes(_BYTES))
            writer.flush()
            os.fsync(writer.fileno())
        with suppress(FileExistsError):
            os.link(new, root / _NAME)
    finally:
        new.unlink(missing_ok=True)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
