import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from unicodedata import normalize

from pathvalidate import sanitize_filename

from millrace_worker.handlers.thread_calls import call_in_thread

_PLAIN_FILE = 0o100644 << 16
_MAX_NAME_BYTES = 255
# What is longer is no ending.
_LONGEST_SUFFIX = 20
# What is yielded at least, but for the end.
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file of an archive: `open` gives its content, which has `size_bytes`."""

    name: str
    modified_at: datetime
    size_bytes: int
    open: Callable[[], Awaitable[AsyncGenerator[bytes, None]]]


def safe_unique_names(names: Sequence[str]) -> list[str]:
    """Return names that all differ, and that any system can unpack, in the folder it unpacks to.

    A name that is taken, in whatever upper and lower case, becomes "name (2).ending", "name (3).ending", …
    """
    taken: set[str] = set()
    next_number: dict[str, int] = {}
    unique = []
    for name in names:
        safe = candidate = _safe(name)
        key = _sameness(safe)
        while _sameness(candidate) in taken:
            number = next_number.get(key, 2)
            next_number[key] = number + 1
            candidate = _fitting(safe, f" ({number})")
        taken.add(_sameness(candidate))
        unique.append(candidate)
    return unique


def _safe(name: str) -> str:
    safe = sanitize_filename(name, replacement_text="_", platform="universal")
    return _fitting(safe if safe.strip(". ") else "_")


def _sameness(name: str) -> str:
    """Return what two names have in common that some system takes for one."""
    return normalize("NFC", normalize("NFD", name).casefold())


def _fitting(name: str, mark: str = "") -> str:
    """Put a mark before a name's ending, and make it as short as names of files have to be."""
    path = PurePosixPath(name)
    stem, suffix = (path.stem, path.suffix) if len(path.suffix) <= _LONGEST_SUFFIX else (name, "")
    room = _MAX_NAME_BYTES - len(f"{mark}{suffix}".encode())
    return f"{stem.encode()[:room].decode(errors='ignore')}{mark}{suffix}"


async def zipped(
    members: Sequence[ZipMember], on_bytes: Callable[[int], Awaitable[None]]
) -> AsyncGenerator[bytes, None]:
    """Yield a zip archive of the members; `on_bytes` is told how much of their content it holds so far.

    Neither a member nor the archive is ever in memory as a whole. Zip64 is used where it is needed.
    """
    output = _Output()
    done = 0
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            async with aclosing(await member.open()) as content:
                with archive.open(_entry(member), "w") as entry:
                    async for chunk in content:
                        await call_in_thread(entry.write, chunk)
                        done += len(chunk)
                        await on_bytes(done)
                        if output.size >= _CHUNK_BYTES:
                            yield output.take()
    yield output.take()


def _entry(member: ZipMember) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(member.name, member.modified_at.timetuple()[:6])
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = _PLAIN_FILE
    # Tells zipfile whether the entry needs Zip64.
    entry.file_size = member.size_bytes
    return entry


class _Output:
    """What zipfile writes, until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> int:
        self._parts.append(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing; zipfile calls it."""

    def close(self) -> None:
        """Do nothing; zipfile could call it."""

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        self.size = 0
        return taken
