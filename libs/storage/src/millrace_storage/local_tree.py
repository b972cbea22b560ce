import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from millrace_storage.object_store import ObjectMissingError

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# The last two: a step of the path is no folder, or a symbolic link.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# Of what holds FAT or is a share of SMB, and of some that are mounted by programs.
_KNOWS_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
# A folder that is made here may be found empty and removed before anything is in it.
_ATTEMPTS_IN_FOLDER = 100


class LocalTree:
    """The files below a root folder, by paths of names. Every call blocks, and leaves nothing open.

    Paths are opened step by step from the root, and no step may be a symbolic link. Folders come and go with what is
    in them. Raises OSError for what the operating system refuses.
    """

    def __init__(self, root: Path, *, lasting: str) -> None:
        """Take a folder, and the name of the one in it that stays when nothing is in it."""
        self.root = root.absolute()
        self._lasting = lasting

    def create(self, path: Sequence[str]) -> None:
        """Make an empty file. Raises FileExistsError."""
        self.root.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        for attempt in range(_ATTEMPTS_IN_FOLDER):
            try:
                with self.folder(path[:-1], create=True) as folder:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    os.close(os.open(path[-1], flags, _FILE_MODE, dir_fd=folder))
            except FileNotFoundError:
                if attempt == _ATTEMPTS_IN_FOLDER - 1:
                    raise
            else:
                return

    def append(self, path: Sequence[str], content: bytes | bytearray) -> None:
        """Add to the end of a file."""
        with self._opened_to_write(path) as file, memoryview(content) as rest:
            written = 0
            while written < len(rest):
                written += os.write(file, rest[written:])

    def sync(self, path: Sequence[str]) -> None:
        """Bring a file's content to the disk."""
        with self._opened_to_write(path) as file:
            os.fsync(file)

    def rename(self, source: Sequence[str], target: Sequence[str]) -> os.stat_result:
        """Move a file, durably, into the place of any there; it counts as written now.

        Raises ObjectMissingError when there is no file at `source`.
        """
        for attempt in range(_ATTEMPTS_IN_FOLDER):
            with self.file(source) as file:
                os.utime(file, ns=(now := time.time_ns(), now))
                try:
                    self._rename(source, target)
                except FileNotFoundError:
                    if attempt == _ATTEMPTS_IN_FOLDER - 1:
                        raise
                else:
                    found = os.fstat(file)
                    break
        self._remove_empty(source[:-1])
        return found

    def link(self, source: Sequence[str], target: Sequence[str]) -> bool:
        """Give a file another path, durably; where there are no links it loses the first one. False: there is something."""
        with self.folder(source[:-1]) as leaving, self.folder(target[:-1], create=True) as entering:
            try:
                os.link(
                    source[-1], target[-1], src_dir_fd=leaving, dst_dir_fd=entering, follow_symlinks=False
                )
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _KNOWS_NO_LINKS:
                    raise
                if _is_there(target[-1], entering):
                    return False
                # Of two at once the later one replaces the other.
                os.rename(source[-1], target[-1], src_dir_fd=leaving, dst_dir_fd=entering)
            os.fsync(entering)
        return True

    def remove(self, path: Sequence[str], *, durably: bool = True) -> None:
        """Remove a file, if it is there, and the folders that are empty then."""
        with (
            suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError),
            self.folder(path[:-1]) as folder,
        ):
            os.unlink(path[-1], dir_fd=folder)
            if durably:
                os.fsync(folder)
        self._remove_empty(path[:-1])

    def remove_all(self, path: Sequence[str], names: Sequence[str]) -> dict[str, OSError]:
        """Remove files of one folder, those that are there, durably, and the folders that are empty then.

        Returns what the operating system said of those that it did not remove.
        """
        refused = {}
        with suppress(FileNotFoundError, NotADirectoryError), self.folder(path) as folder:
            for name in names:
                try:
                    os.unlink(name, dir_fd=folder)
                except (FileNotFoundError, IsADirectoryError):
                    continue
                except OSError as error:
                    refused[name] = error
            os.fsync(folder)
        self._remove_empty(path)
        return refused

    def stat(self, path: Sequence[str]) -> os.stat_result | None:
        """Return what is known of a file, or None when there is no such file."""
        try:
            with self.file(path) as file:
                return os.fstat(file)
        except ObjectMissingError:
            return None

    def scan(self, path: Sequence[str]) -> list[tuple[str, os.stat_result]]:
        """Return the files and folders in a folder, unsorted; nothing when it is gone."""
        found = []
        with suppress(FileNotFoundError, NotADirectoryError), self.folder(path) as folder:
            for name in os.listdir(folder):  # noqa: PTH208 - a Path has no descriptor
                with suppress(FileNotFoundError):
                    entry = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(entry.st_mode) or stat.S_ISDIR(entry.st_mode):
                        found.append((name, entry))
        return found

    @contextmanager
    def file(self, path: Sequence[str]) -> Iterator[int]:
        """Open a file to read. Raises ObjectMissingError when there is none, or something that is no file."""
        try:
            with self.folder(path[:-1]) as folder:
                file = os.open(path[-1], _OPEN_FILE, dir_fd=folder)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            raise ObjectMissingError("/".join(path)) from None
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ObjectMissingError("/".join(path))
            yield file
        finally:
            os.close(file)

    @contextmanager
    def folder(self, path: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """Open a folder, when told so after making what is missing of it below the root."""
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in path:
                if create:
                    _make_folder(name, folder)
                inner = _open_folder(name, folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    def _rename(self, source: Sequence[str], target: Sequence[str]) -> None:
        with self.folder(source[:-1]) as leaving, self.folder(target[:-1], create=True) as entering:
            os.replace(source[-1], target[-1], src_dir_fd=leaving, dst_dir_fd=entering)
            os.fsync(entering)
            os.fsync(leaving)

    def _remove_empty(self, path: Sequence[str]) -> None:
        """Remove a folder and those above it, as far as they are empty."""
        for length in range(len(path), 0, -1):
            if length == 1 and path[0] == self._lasting:
                return
            try:
                with self.folder(path[: length - 1]) as folder:
                    os.rmdir(path[length - 1], dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                return

    @contextmanager
    def _opened_to_write(self, path: Sequence[str]) -> Iterator[int]:
        with self.folder(path[:-1]) as folder:
            file = os.open(path[-1], os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            yield file
        finally:
            os.close(file)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_folder(name: str, parent: int) -> int:
    try:
        return os.open(name, _OPEN_FOLDER, dir_fd=parent)
    except NotADirectoryError as error:
        # Of a link it is said too that it is no folder, but what lies behind it is not gone.
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
        raise


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, _FOLDER_MODE, dir_fd=parent)
    except FileExistsError:
        return
    os.fsync(parent)
