"""Safe, bounded access to the arrays of an ``.npz`` archive."""

from __future__ import annotations

import mmap
import shutil
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import SourceError

#: Compressed members up to this size are unpacked into memory, larger ones into an unnamed temporary file.
MEMORY_BYTES = 256 << 20
#: deflate cannot do better than this; a member that claims more lies about its size.
_MAX_RATIO = 1100
_SLACK_BYTES = 1 << 16
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True)
class Member:
    """One array of the archive, known from its header alone."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool
    header_bytes: int
    info: zipfile.ZipInfo

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.dtype.kind in "biufc"

    def __str__(self) -> str:
        return f"{self.key} {self.shape}"


class Archive:
    """An open ``.npz`` file.

    Raises
    ------
    SourceError
        It is not a sound archive of arrays; the message names file and member.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._arrays: dict[str, npt.NDArray[np.generic]] = {}
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise SourceError(f"{path} is not a .npz archive that can be read: {error}") from error
        try:
            self.members = {member.key: member for member in map(self._member, self._zip.infolist())}
        except BaseException:
            self.close()
            raise

    def array(self, key: str) -> npt.NDArray[np.generic]:
        """Return an array: mapped where it is stored plainly or too large for memory."""
        if key not in self._arrays:
            member = self.members[key]
            if member.dtype.hasobject:
                raise self._bad(key, "holds Python objects, which are never unpickled; leave it out with arrays")
            try:
                self._arrays[key] = self._load(member)
            except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
                raise self._bad(key, f"cannot be read: {error}") from error
        return self._arrays[key]

    def close(self) -> None:
        """Close the file."""
        self._arrays = {}
        self._zip.close()

    def _bad(self, key: str, what: str) -> SourceError:
        return SourceError(f"{self.path}: array {key!r} {what}")

    def _member(self, info: zipfile.ZipInfo) -> Member:
        key = info.filename.removesuffix(".npy")
        if info.flag_bits & 1:
            raise self._bad(key, "is encrypted; save the archive without a password")
        try:
            with self._zip.open(info) as file:
                shape, fortran, dtype = _read_header(file)
                header_bytes = file.tell()
        except Exception as error:  # NumPy's header parser lets tokenizer and syntax errors out, zipfile its own
            raise self._bad(key, f"is not a .npy array: {error}") from error
        self._check_size(key, info, header_bytes, shape, dtype)
        return Member(key, shape, dtype, fortran, header_bytes, info)

    def _check_size(
        self, key: str, info: zipfile.ZipInfo, header_bytes: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]
    ) -> None:
        size = dtype.itemsize
        for length in shape:
            size *= length
        if not dtype.hasobject and header_bytes + size != info.file_size:
            raise self._bad(key, f"should hold {header_bytes + size} bytes but the archive says {info.file_size}")
        if info.file_size > _MAX_RATIO * info.compress_size + _SLACK_BYTES:
            raise self._bad(key, f"claims {info.file_size} bytes of {info.compress_size} compressed ones: damaged")

    def _load(self, member: Member) -> npt.NDArray[np.generic]:
        if member.info.file_size == member.header_bytes:
            return np.zeros(member.shape, member.dtype)
        if member.info.compress_type == zipfile.ZIP_STORED:
            return self._map_stored(member)
        if member.info.file_size <= MEMORY_BYTES:
            return _view(bytearray(self._zip.read(member.info)), member.header_bytes, member)
        return self._spill(member)

    def _map_stored(self, member: Member) -> npt.NDArray[np.generic]:
        with Path(self.path).open("rb") as file:
            file.seek(member.info.header_offset)
            signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            start = member.info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if signature != b"PK\x03\x04" or start + member.info.file_size > len(whole):
            raise ValueError("the archive is damaged or cut short")
        return _view(whole, start + member.header_bytes, member)

    def _spill(self, member: Member) -> npt.NDArray[np.generic]:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if member.info.file_size > free:
            raise OSError(
                f"unpacked it has {member.info.file_size} bytes, and {tempfile.gettempdir()} has {free} free; "
                "set TMPDIR to a larger folder, or save the archive uncompressed (np.savez)"
            )
        with tempfile.TemporaryFile() as file:
            with self._zip.open(member.info) as packed:
                shutil.copyfileobj(packed, file, 1 << 20)
            file.flush()
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _view(whole, member.header_bytes, member)


def _view(buffer: mmap.mmap | bytearray, offset: int, member: Member) -> npt.NDArray[np.generic]:
    order: Literal["C", "F"] = "F" if member.fortran else "C"
    view: npt.NDArray[np.generic] = np.ndarray(member.shape, member.dtype, buffer, offset, order=order)
    return view


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f".npy version {version} is for structured arrays, which are not supported")
