from collections.abc import Iterable

from millrace_worker.handlers.parsed_rows import MAX_ROW_BYTES, UnreadableFileError

_UTF_8_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class LineSplitter:
    r"""Cuts a file that arrives in blocks into lines, in bounded memory.

    A line ends with "\n", "\r\n" or "\r", which stays on it. A byte order mark of UTF-8 is dropped. A line
    longer than MAX_ROW_BYTES comes out as None.
    """

    def __init__(self) -> None:
        self._started = False
        self._rest = b""
        self._rest_is_too_long = False

    def split(self, block: bytes, *, last: bool) -> list[bytes | None]:
        """Return the lines that are complete with this block; with the `last` one, all that are left.

        Raises UnreadableFileError when the file says that it is UTF-16.
        """
        data = self._rest + block
        if not self._started:
            if len(data) < len(_UTF_8_MARK) and not last:
                self._rest = data
                return []
            data = _without_mark(data)
            self._started = True
        lines = data.splitlines(keepends=True)
        self._rest = b""
        if lines and not last and not lines[-1].endswith(b"\n"):
            # Not complete; one that ends with "\r" may go on with "\n".
            self._rest = lines.pop()
        bounded = _bounded(lines)
        if self._rest_is_too_long and (bounded or last):
            bounded[:1] = [None]
            self._rest_is_too_long = False
        if len(self._rest) > MAX_ROW_BYTES:
            self._rest = b""
            self._rest_is_too_long = True
        return bounded


def _without_mark(data: bytes) -> bytes:
    if data.startswith(_UTF_16_MARKS):
        raise UnreadableFileError("the file is UTF-16; save it as UTF-8")
    return data.removeprefix(_UTF_8_MARK)


def _bounded(lines: Iterable[bytes]) -> list[bytes | None]:
    return [line if len(line) <= MAX_ROW_BYTES else None for line in lines]
