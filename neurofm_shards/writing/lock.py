"""Keep two writers of one output folder apart, by a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from typing_extensions import Self

from neurofm_shards._process import host_name
from neurofm_shards.errors import InputNotFoundError, OutputExistsError, OutputLockedError, UnsafePathError
from neurofm_shards.format.files import SIDECAR_DIR, Folder, is_alive

LOCK_NAME = "lock"
#: What ``flock`` fails with where the file system has no locks: Lustre without ``-o flock``, some NFS, some FUSE.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})
_HEARTBEAT_S = 15.0
_MOST_BYTES = 4096


#: Lock files that this process holds: one that says so and is not here was left behind by an interrupted release.
_held_here: set[tuple[int, int]] = set()


@dataclass(frozen=True)
class LockHolder:
    """Who holds a lock, as its file says.

    Attributes
    ----------
    host : str
        Name of the machine, and which start of it.
    pid : int
        The process.
    started : str
        When the process started, in the system's own terms; empty where it does not say.
    stand_in : bool
        Whether the file itself is the lock, because the file system has no locks.
    """

    host: str
    pid: int
    started: str
    stand_in: bool = False

    @classmethod
    def here(cls, *, stand_in: bool) -> LockHolder:
        """Return this process."""
        return cls(_host(), os.getpid(), _started(os.getpid()), stand_in)

    @classmethod
    def parse(cls, data: bytes) -> LockHolder | None:
        """Return the content of a lock file; None where no such file of this version can be read."""
        try:
            match orjson.loads(data):
                case {"host": str(host), "pid": int(pid), "started": str(started), "stand_in": bool(stand_in)}:
                    return cls(host, pid, started, stand_in)
        except orjson.JSONDecodeError:
            pass  # half written, or of a version that wrote the number of the process alone
        return None

    @property
    def is_here(self) -> bool:
        """Whether it ran on this machine since its last start."""
        return self.host == _host()

    @property
    def is_running(self) -> bool:
        """Whether the process, one of this machine, still runs."""
        return self.is_here and is_alive(self.pid) and self.started == _started(self.pid)


def try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Take the kernel's lock of an open file if it is free; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


class OutputLock:
    """Holds ``<output>/.neurofm/lock``; a context manager.

    The lock is the kernel's (``flock``), so a killed process cannot hold it. Where the file system has none, the file
    itself, made with ``O_EXCL``, stands in; it is taken over only from a process of this machine that is no more. The
    file is removed at the end, so that it is no part of a finished data set; so are folders that were made for it and
    are still empty.

    Parameters
    ----------
    folder : Path
        The output.
    shared : bool
        Take a share: any number of parts of one conversion hold the lock together, and keep everybody else away. Where
        the file system has no locks, parts are not kept from each other, only from a writer that was there first.

    Raises
    ------
    OutputLockedError
        Another live writer, of this process or another, writes to the folder.
    UnsafePathError
        The hidden folder or the lock is a link, or no lock of this program.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self._folder = folder
        self._shared = shared
        self._path = folder / SIDECAR_DIR / LOCK_NAME
        self._made = not folder.exists()
        self._stands_in = False
        self._release: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock; a lock that nobody holds on to any more is released by itself."""
        if self._folder.exists() and not self._folder.is_dir():
            raise OutputExistsError(f"output {self._folder} is a file; name a folder")
        try:
            while (descriptor := self._attempt()) is None:  # the holder before us removed the file, or its folder
                pass
        except BaseException:
            _remove_empty(self._made_folders())
            raise
        stop = threading.Event()
        if self._stands_in:
            threading.Thread(target=_beat, args=(descriptor, stop), name="lock-heartbeat", daemon=True).start()
        _held_here.add(_identity(descriptor))
        self._release = weakref.finalize(
            self, _give_back, descriptor, self._path, self._made_folders(), os.getpid(), stop, shared=self._shared
        )

    def release(self) -> None:
        """Give the lock back; harmless when it was given back before."""
        if self._release is not None:
            self._release()

    def _made_folders(self) -> list[Path]:
        return [self._path.parent, *([self._folder] if self._made else [])]

    def _attempt(self) -> int | None:
        """Try once to take the lock; return its descriptor, None where the attempt has to be repeated."""
        with Folder.open(self._path.parent, create=True) as folder:
            try:
                descriptor, is_new = _opened(folder)
            except InputNotFoundError:
                return None
            taken = False
            try:
                taken = self._take(folder, descriptor, is_new=is_new)
            finally:
                if not taken:
                    os.close(descriptor)
        return descriptor if taken else None

    def _take(self, folder: Folder, descriptor: int, *, is_new: bool) -> bool:
        holder = None if is_new else LockHolder.parse(_content(folder, descriptor))
        free = try_lock(descriptor, shared=self._shared)
        if free is None:
            if self._shared:
                return self._share_file(descriptor, holder)
            return self._take_file(folder, descriptor, holder, is_new=is_new)
        if not free:
            raise self._refusal(descriptor, holder)
        if not _is_current(folder, descriptor):
            return False
        if holder is not None and (_is_held(descriptor, holder) or (holder.stand_in and not holder.is_here)):
            raise self._refusal(descriptor, holder)  # a lock that does not exclude, or that another system cannot see
        if not self._shared:
            _write(descriptor, LockHolder.here(stand_in=False))
        return True

    def _share_file(self, descriptor: int, holder: LockHolder | None) -> bool:
        if holder is not None and (holder.stand_in and (not holder.is_here or _is_held(descriptor, holder))):
            raise self._refusal(descriptor, holder)
        return True

    def _take_file(self, folder: Folder, descriptor: int, holder: LockHolder | None, *, is_new: bool) -> bool:
        """Let the file itself be the lock: whoever made it has it."""
        if not is_new:
            if holder is None or not holder.is_here or _is_held(descriptor, holder):
                raise self._refusal(descriptor, holder)
            _remove_stale(folder, descriptor)
            return False
        _write(descriptor, LockHolder.here(stand_in=True))
        self._stands_in = True
        warnings.warn(
            f"the file system of {self._folder} has no locks: {self._path} stands in, which keeps writers of this "
            "program apart; after a crash on another machine it has to be removed by hand",
            UserWarning,
            stacklevel=6,
        )
        return True

    def _refusal(self, descriptor: int, holder: LockHolder | None) -> OutputLockedError:
        if holder == LockHolder.here(stand_in=holder.stand_in if holder is not None else False):
            who = "another writer of this program: finish it (finalize() or abort())"
        elif holder is None or holder.is_here:
            who = f"another process{f' ({holder.pid})' if holder is not None else ''}: wait for it"
        else:
            age = max(0, time.time() - os.fstat(descriptor).st_mtime)
            who = (
                f"process {holder.pid} of another machine ({holder.host.partition(' ')[0]}), last heard of {age:.0f} s "
                f"ago: wait for it; if it is no more, remove {self._path}"
            )
        return OutputLockedError(f"{self._folder} is being written by {who}, or choose another output")


def _opened(folder: Folder) -> tuple[int, bool]:
    """Open the lock file, making it where there is none; say whether it was made."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(LOCK_NAME, flags | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder.descriptor), True
    except FileExistsError:
        return folder.open_own_file(LOCK_NAME, os.O_RDWR), False
    except FileNotFoundError as error:
        raise InputNotFoundError(f"{folder.path} was removed") from error


def _content(folder: Folder, descriptor: int) -> bytes:
    data = os.pread(descriptor, _MOST_BYTES + 1, 0)
    if len(data) > _MOST_BYTES or (data and not data.strip().isdigit() and LockHolder.parse(data) is None):
        raise UnsafePathError(f"{folder.path / LOCK_NAME} is no lock of this program; move it away")
    return data


def _write(descriptor: int, holder: LockHolder) -> None:
    with contextlib.suppress(OSError):  # where the kernel locks it is for messages alone, and the disk may be full
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, orjson.dumps(asdict(holder)), 0)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _is_held(descriptor: int, holder: LockHolder) -> bool:
    """Return whether a lock file's holder, of this machine, still has it."""
    if not holder.is_running:
        return False
    return holder.pid != os.getpid() or _identity(descriptor) in _held_here


def _is_current(folder: Folder, descriptor: int) -> bool:
    found = folder.status(LOCK_NAME)
    return found is not None and os.path.samestat(os.fstat(descriptor), found)


def _remove_stale(folder: Folder, descriptor: int) -> None:
    """Remove the lock of a dead process, unless somebody else did and has it now."""
    aside = f"{LOCK_NAME}.{os.getpid()}.stale"
    with contextlib.suppress(FileNotFoundError):
        folder.move(LOCK_NAME, folder, aside)
        found = folder.status(aside)
        if found is not None and not os.path.samestat(os.fstat(descriptor), found):
            with contextlib.suppress(FileExistsError):
                os.link(aside, LOCK_NAME, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
        folder.remove(aside)


def _beat(descriptor: int, stop: threading.Event) -> None:
    with contextlib.suppress(OSError):  # the lock was given back in this very moment, or its file system is away
        while not stop.wait(_HEARTBEAT_S):
            os.utime(descriptor)


def _give_back(
    descriptor: int, path: Path, made: list[Path], owner: int, stop: threading.Event, *, shared: bool
) -> None:
    stop.set()
    if os.getpid() != owner:  # a forked child inherits the descriptor, and must not end the lock of its parent
        os.close(descriptor)
        return
    try:
        with Folder.open(path.parent) as folder:
            if not shared and _is_current(folder, descriptor):
                folder.remove(LOCK_NAME)
    except (InputNotFoundError, UnsafePathError):  # somebody removed or replaced it: there is nothing to give back
        pass
    finally:
        _held_here.discard(_identity(descriptor))
        os.close(descriptor)
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # it is not empty: something was written
            folder.rmdir()


def _host() -> str:
    """Return the name of this machine, and which start and which view of its processes this is."""
    return f"{host_name()} {boot_id()} {_process_view()}".strip()


def _process_view() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def boot_id() -> str:
    """Return the identity of the present start of this machine; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process started, in ticks since the machine did; empty where it ended or nobody says."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
