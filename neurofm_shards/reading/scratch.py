"""Room on a disk for decoded bytes: a file without a name, which forked processes share and which ends with them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neurofm_shards.errors import ConfigError

#: The part of the disk that is left free for others.
_LEFT_FREE = 0.05
#: How long to wait where the system takes two processes for waiting in a circle, in seconds.
_AGAIN_S = 0.001
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: File systems of local disks, as Linux names them; that of a container counts as one.
_LOCAL_DISKS = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "reiserfs", "xfs", "zfs", "fuse-overlayfs")
)
#: The part of what is free that may be used where nobody named the folder.
_MOST_OF_FREE = 0.5


def temporary_folder(size: int) -> str | None:
    """Return the system's temporary folder where it is on a local disk that has twice so much room, in bytes."""
    try:
        folder = os.path.realpath(tempfile.gettempdir())
        disk = os.statvfs(folder)
    except OSError:  # no temporary folder can be written to
        return None
    if size > _MOST_OF_FREE * disk.f_bavail * disk.f_frsize or file_system_of(folder) not in _LOCAL_DISKS:
        return None
    return folder


def file_system_of(folder: str) -> str:
    """Return the kind of file system that holds a folder (``ext4``, ``tmpfs``); "" where the system does not say."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    found = [(_unescaped(fields[4]), fields[fields.index("-") + 1]) for fields in map(str.split, mounts)]
    holding = [each for each in found if Path(folder).is_relative_to(each[0])]
    return max(reversed(holding), key=lambda each: len(each[0]), default=("", ""))[1]  # the last one hides others


def _unescaped(path: str) -> str:
    """Return a path as it is: the system writes blanks in it as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


class Scratch:
    """A file as large as the addresses of a data set, of which only what is used takes room.

    Room is taken from the disk before it is mapped, so that writing to the map cannot fail: that would end the process.
    Behind the addresses is a byte for each of them, which says whether the frame that begins there is decoded. It is
    read and written under a lock of the system, which a process that is killed gives back.

    Parameters
    ----------
    folder : str
        Where the file is made.
    size : int
        Number of addresses.

    Attributes
    ----------
    descriptor : int
        Of the file.
    close : callable
        Closes it; its room is free when no map of it is left.

    Raises
    ------
    ConfigError
        No such file can be made there.
    """

    def __init__(self, folder: str, size: int) -> None:
        self._size = size
        try:
            self.descriptor, path = tempfile.mkstemp(prefix=".neurofm-shards-", dir=folder)
            os.unlink(path)  # noqa: PTH108  (an open file needs no name)
            os.ftruncate(self.descriptor, 2 * size)
        except OSError as error:
            raise ConfigError(f"cache_dir={folder!r}: no file can be made there ({error})") from error
        self.close = weakref.finalize(self, os.close, self.descriptor)

    def reserve(self, start: int, size: int) -> bool:
        """Take room for a range of addresses; return False where the disk has too little."""
        disk = os.fstatvfs(self.descriptor)
        if disk.f_bavail * disk.f_frsize - size < _LEFT_FREE * disk.f_blocks * disk.f_frsize:
            return False
        try:
            os.posix_fallocate(self.descriptor, start, size)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise
        return True

    @contextmanager
    def claim(self, start: int) -> Iterator[bool]:
        """Hold the frame that begins at an address; give whether it is still to be decoded.

        When the context ends without an error, it is decoded for all processes.
        """
        self._lock(start)
        try:
            done = os.pread(self.descriptor, 1, self._size + start) == b"\1"
            yield not done
            if not done:
                os.pwrite(self.descriptor, b"\1", self._size + start)
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, start)

    def _lock(self, start: int) -> None:
        """Wait for a lock. Whoever has one waits for no other, but threads of two processes may look as if they did."""
        while not self._locked(start):
            time.sleep(_AGAIN_S)

    def _locked(self, start: int) -> bool:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX, 1, start)
        except OSError as error:
            if error.errno != errno.EDEADLK:
                raise
            return False
        return True
