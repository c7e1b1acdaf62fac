"""Files that appear whole or not at all, and folders held by a descriptor, which no link can lead elsewhere."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from typing_extensions import Self

from neurofm_shards.errors import AccessError, FormatError, InputNotFoundError, StorageError, UnsafePathError
from neurofm_shards.types import Buffer

#: Hidden folder of a data set: indexes, tables, the journal.
SIDECAR_DIR = ".neurofm"
#: The file in it that holds saved splits.
SPLITS_NAME = "splits"
#: Folder of side tables in the hidden one.
TABLES_DIR = "tables"

#: On x86-64, and on ARM with pages of 4 KiB.
HUGE_PAGE = 2 << 20

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: What opening a link with O_NOFOLLOW fails with; which one depends on the system.
_LINK_ERRORS = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
#: What opening fails with where the path leads to no file: links in a circle, a socket, a name that no file can have.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG, errno.EINVAL)
_PARTIAL = re.compile(r"\.(.*?)(?:\.(\d{1,9})-\d+)?\.partial")
_numbers = itertools.count()


def open_regular(path: Path | str) -> int:
    """Open a file of unknown origin for reading; return its descriptor.

    Only regular files, or links to them, are opened: a named pipe would wait for ever, a device might never end.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    StorageError
        It cannot be opened (permissions, too many open files, a failing disk).
    FormatError
        It is no regular file, or links lead in a circle.
    """
    try:
        descriptor = os.open(path, _READ)
    except (OSError, ValueError) as error:
        raise open_error(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(f"{path} is no regular file (a folder, a pipe or a device); remove it")
    return descriptor


def open_error(path: Path | str, error: OSError | ValueError) -> InputNotFoundError | StorageError | FormatError:
    """Return the error of this program for one that opening a file gave."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return InputNotFoundError(f"there is no file {path}")
    if not isinstance(error, OSError) or error.errno in _NO_FILE:
        return FormatError(f"{path} is no file that can be opened ({error}); check links")
    if isinstance(error, PermissionError):
        return AccessError(f"{path} cannot be opened ({error}); check its permissions")
    return StorageError(f"{path} cannot be opened ({error}); this is a fault of the machine, not of the file")


def names_in(folder: Path) -> list[str]:
    """Return the names of all that lies in a folder; AccessError where that is not allowed."""
    try:
        return [entry.name for entry in folder.iterdir()]
    except PermissionError as error:
        raise AccessError(f"{folder} cannot be read ({error}); check its permissions") from error
    except NotADirectoryError as error:
        raise FormatError(f"{folder} cannot be read ({error}); it is no folder") from error


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True  # somebody else's, and running; or a number that no process has, which nobody can rule out
    return True


class Folder:
    """An open folder; a context manager. Names are single components, and links are never followed.

    Parameters
    ----------
    descriptor : int
        Of the folder; closed with this object.
    path : Path
        Where it was found, for messages.
    names : str
        Folders below that, one in the other.
    """

    def __init__(self, descriptor: int, path: Path, *names: str) -> None:
        self.descriptor = descriptor
        self._start, self._names = path, names

    @property
    def path(self) -> Path:
        """Where it was found (put together when asked: paths are slow, and most folders need none)."""
        return self._start.joinpath(*self._names)

    @classmethod
    def open(cls, path: Path | str, *, create: bool = False) -> Self:
        """Open a folder. The path may hold links, but none from the hidden folder of a data set on.

        Raises
        ------
        InputNotFoundError
            There is no such folder.
        UnsafePathError
            The hidden folder, or a folder below it, is a link or no folder.
        """
        path = Path(path)
        parts = path.parts
        cut = parts.index(SIDECAR_DIR) if SIDECAR_DIR in parts else len(parts)
        outside = Path(*parts[:cut])
        if create:
            outside.mkdir(parents=True, exist_ok=True)
        try:
            folder = cls(os.open(outside, _DIRECTORY), outside)
        except OSError as error:
            raise open_error(outside, error) from error
        for name in parts[cut:]:
            with folder:
                folder = folder.child(name, create=create)
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; harmless when it is closed."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def child(self, name: str, *, create: bool = False) -> Self:
        """Open a folder in this one."""
        _check_name(name)
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=self.descriptor)
        try:
            descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.descriptor)
        except OSError as error:
            raise self._error(name, error) from error
        return type(self)(descriptor, self._start, *self._names, name)

    def duplicate(self) -> Self:
        """Open this folder once more."""
        return type(self)(os.dup(self.descriptor), self._start, *self._names)

    def names(self) -> list[str]:
        """Return the names of everything in the folder, sorted."""
        return sorted(os.listdir(self.descriptor))  # noqa: PTH208  (of a descriptor, which no Path has)

    def status(self, name: str) -> os.stat_result | None:
        """Return the status of an entry itself, never of a link's target; None where there is none."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        """Return whether there is an entry of this name, whatever it is."""
        return self.status(name) is not None

    def has_folder(self, name: str) -> bool:
        """Return whether there is a folder of this name."""
        found = self.status(name)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def mode(self, name: str) -> int | None:
        """Return the permission bits of a regular file; None where there is none."""
        found = self.status(name)
        return stat.S_IMODE(found.st_mode) if found is not None and stat.S_ISREG(found.st_mode) else None

    def open_file(self, name: str, flags: int = _READ) -> int:
        """Open a regular file that has no other name, for reading; return its descriptor.

        Raises
        ------
        InputNotFoundError
            There is no such file.
        UnsafePathError
            It is a link, or no regular file.
        """
        try:
            descriptor = os.open(name, flags | os.O_NOFOLLOW, dir_fd=self.descriptor)
        except OSError as error:
            raise self._error(name, error) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise UnsafePathError(f"{self.path / name} is no regular file (a folder, a pipe or a device); remove it")
        return descriptor

    def open_own_file(self, name: str, flags: int) -> int:
        """Open a regular file for writing in place; refuse one that has another name elsewhere (a hard link)."""
        descriptor = self.open_file(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        if os.fstat(descriptor).st_nlink > 1:
            os.close(descriptor)
            raise UnsafePathError(f"{self.path / name} has a second name elsewhere (a hard link); remove it")
        return descriptor

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises what :meth:`open_file` raises."""
        with os.fdopen(self.open_file(name), "rb") as file:
            return file.read()

    def create_file(self, name: str, mode: int | None = None) -> int:
        """Create a file that was not there, for writing; return its descriptor.

        Parameters
        ----------
        name : str
            Its name.
        mode : int, optional
            Permission bits, exactly; by default what the process gives new files.
        """
        descriptor = os.open(name, _CREATE, 0o666 if mode is None else 0o600, dir_fd=self.descriptor)
        if mode is not None:
            os.fchmod(descriptor, mode)
        return descriptor

    def write(self, name: str, pieces: Iterable[Buffer], *, durable: bool = False, mode: int | None = None) -> None:
        """Write a file under a temporary name, then rename it; on any error nothing is left of it.

        Parameters
        ----------
        name : str
            Its name; a file that is there is replaced, and a link is replaced, never followed.
        pieces : iterable of bytes-like
            Its content.
        durable : bool
            Whether to sync file and folder.
        mode : int, optional
            Permission bits; by default those of the file that is replaced.
        """
        temporary = partial_name(name)
        try:
            with os.fdopen(self.create_file(temporary, self.mode(name) if mode is None else mode), "wb") as file:
                file.writelines(pieces)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            self.move(temporary, self, name)
        except BaseException:
            self.remove(temporary)
            raise
        if durable:
            self.sync()

    def move(self, name: str, target: Folder, new_name: str | None = None) -> None:
        """Rename an entry into another folder, replacing what has the name there."""
        new_name = name if new_name is None else new_name
        os.replace(name, new_name, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor)

    def link(self, name: str, target: Folder, new_name: str) -> None:
        """Give a file a second name in another folder; copy it where the file system has no second names."""
        try:
            os.link(name, new_name, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            source = os.fdopen(self.open_file(name), "rb")
            with source, os.fdopen(target.create_file(new_name, self.mode(name)), "wb") as copy:
                shutil.copyfileobj(source, copy)

    def set_mode(self, name: str, mode: int) -> None:
        """Set the permission bits of a regular file."""
        descriptor = self.open_file(name)
        try:
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> bool:
        """Delete a file or link; return whether there was one."""
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return False
        return True

    def remove_tree(self, name: str) -> None:
        """Delete an entry, and everything below it where it is a folder; links themselves, never what they lead to."""
        if not self.has_folder(name):
            self.remove(name)
            return
        with self.child(name) as folder:
            for entry in folder.names():
                folder.remove_tree(entry)
        os.rmdir(name, dir_fd=self.descriptor)

    def remove_partials(self, takes: Callable[[str], bool], *, of_the_dead: bool = False) -> None:
        """Delete half-written files whose names ``takes`` accepts; ``of_the_dead``: of processes that are no more."""
        for name in self.names():
            match = _PARTIAL.fullmatch(name)
            if match is None or not takes(match[1]):
                continue
            if not (of_the_dead and (match[2] is None or is_alive(int(match[2])))):
                self.remove(name)

    def files(self) -> Iterator[tuple[str, ...]]:
        """Yield the files below this folder, each as its path's components.

        Raises
        ------
        UnsafePathError
            Something is neither a file nor a folder: a link, a pipe, a device.
        """
        with os.scandir(self.descriptor) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                with self.child(entry.name) as folder:
                    yield from ((entry.name, *rest) for rest in folder.files())
            elif entry.is_file(follow_symlinks=False):
                yield (entry.name,)
            elif (other := self.status(entry.name)) is not None:
                raise UnsafePathError(f"{self.path / entry.name} is {_kind(other.st_mode)}; remove it")

    def sync(self) -> None:
        """Make renames in the folder survive a power cut."""
        os.fsync(self.descriptor)

    def _error(self, name: str, error: OSError) -> Exception:
        found = self.status(name)
        if found is not None and stat.S_ISLNK(found.st_mode):
            return UnsafePathError(
                f"{self.path / name} is a link, and nothing below {SIDECAR_DIR} may be one; remove it"
            )
        if error.errno in _LINK_ERRORS:
            return UnsafePathError(f"{self.path / name} is not the kind of file it should be; remove it")
        return open_error(self.path / name, error)


def partial_name(name: str) -> str:
    """Return a hidden name, new at each call, under which a file grows until it is whole."""
    return f".{name}.{os.getpid()}-{next(_numbers)}.partial"


def is_partial(name: str) -> bool:
    """Return whether a file of this name is half written, or was when its writer was killed."""
    return _PARTIAL.fullmatch(name) is not None


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise UnsafePathError(f"{name!r} is not the plain name of a file or folder")


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    return "a pipe, a socket or a device"


def write_atomically(path: Path, pieces: Iterable[Buffer], *, durable: bool = False, mode: int | None = None) -> None:
    """Write a small file under a temporary name, then rename it; see :meth:`Folder.write`."""
    with Folder.open(path.parent) as folder:
        folder.write(path.name, pieces, durable=durable, mode=mode)


def remove_stale_partials(folder: Path, name: str | None = None) -> None:
    """Delete the half-written files (of one name) of processes of this machine that are no more."""
    with contextlib.suppress(InputNotFoundError), Folder.open(folder) as opened:
        opened.remove_partials(lambda found: name in (None, found), of_the_dead=True)
