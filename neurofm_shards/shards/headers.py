"""Canonical tar headers: plain USTAR, no times, no owners; one at a time or thousands in a few numpy calls."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import ConfigError
from neurofm_shards.shards.names import NAME_BYTES

#: Tar's unit: headers are one block, payloads are padded to whole blocks.
MEMBER_BLOCK = 512
#: Two zero blocks end an archive.
END_OF_ARCHIVE = bytes(2 * MEMBER_BLOCK)
#: Largest payload that eleven octal digits can say.
MAX_MEMBER_BYTES = 8**11 - 1

Bytes2D = npt.NDArray[np.uint8]

_NUMBER = b"%07o\x00"
_OWNER = _NUMBER * 3 % (0o644, 0, 0)
_MTIME = b"%011o\x00" % 0
_BLANK_CHECKSUM = b"        "
_MAGIC = b"ustar\x00" + b"00"
_REST = (b"0" + bytes(100) + _MAGIC + bytes(64) + _NUMBER * 2 % (0, 0)).ljust(512 - 156, b"\0")
_CONSTANT_SUM = sum(_OWNER + _MTIME + _BLANK_CHECKSUM + _REST)
_SIZE_AT = 124
#: Where a header's checksum stands, and how many octal digits it has.
CHECKSUM_AT, CHECKSUM_DIGITS = 148, 6


def padded(size: int) -> int:
    """Round a payload's size up to whole blocks."""
    return -(-size // MEMBER_BLOCK) * MEMBER_BLOCK


def header_bytes(name: str, size: int) -> bytes:
    """Return the one canonical header for a member.

    Raises
    ------
    ConfigError
        The name is not ASCII, empty or longer than 100 bytes, or the payload has 8 GiB or more.
    """
    if not name.isascii():
        raise ConfigError(f"member name {name!r} is not ASCII: escape the key first")
    return _header(name.encode(), size)


def _header(name: bytes, size: int) -> bytes:
    if not 0 < len(name) <= NAME_BYTES:
        raise ConfigError(
            f"member name {name.decode()!r} has {len(name)} bytes and {NAME_BYTES} fit: "
            "use shorter sample ids or field names"
        )
    if not 0 <= size <= MAX_MEMBER_BYTES:
        raise ConfigError(
            f"member {name.decode()!r} would have {size:,} bytes, and tar members end at {MAX_MEMBER_BYTES:,}: "
            "cut the sample into smaller ones"
        )
    digits = b"%011o\x00" % size
    checksum = b"%06o\x00 " % (_CONSTANT_SUM + sum(name) + sum(digits))
    return name.ljust(NAME_BYTES, b"\0") + _OWNER + digits + _MTIME + checksum + _REST


def decimal_digits(numbers: npt.NDArray[np.int64], width: int) -> Bytes2D:
    """Return zero-padded decimal digits as ASCII, shape (n, width)."""
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    return (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)


def _octal_digits(numbers: npt.NDArray[np.int64], width: int) -> Bytes2D:
    shifts = np.arange(3 * width - 3, -1, -3, dtype=np.int64)
    return (numbers[:, None] >> shifts & 7 | ord("0")).astype(np.uint8)


class Header(NamedTuple):
    """A header, and what others of the same field with a key of the same length have in common with it.

    Attributes
    ----------
    one : bytes
        The header.
    key_length, size : int
        Bytes of the key, with which it begins, and of the payload.
    sum_without_key : int
        What its bytes add up to for the checksum, but for the key.
    """

    one: bytes
    key_length: int
    size: int
    sum_without_key: int


class HeaderTemplate:
    """Makes the headers of one field: everything but key, size and checksum is fixed.

    Parameters
    ----------
    field, extension : str
        The member is called ``key.field.extension``.
    """

    def __init__(self, field: str, extension: str) -> None:
        self._tail = f".{field}.{extension}".encode()
        self._last: Header | None = None

    def one(self, key: bytes, size: int) -> bytes:
        """Return the header of one member."""
        return _header(key + self._tail, size)

    def many(self, keys: Bytes2D, sizes: int | npt.NDArray[np.int64]) -> Bytes2D:
        """Return the headers of many members, shape (n, 512).

        Parameters
        ----------
        keys : numpy.ndarray of uint8, shape (n, k)
            ASCII keys of equal length.
        sizes : int or numpy.ndarray of int64, shape (n,)
            Payload bytes: of every member, or of each.
        """
        length = keys.shape[1]
        like = self.like(keys[0].tobytes(), sizes if isinstance(sizes, int) else 0)
        sums = keys.sum(axis=1, dtype=np.int64) + like.sum_without_key
        out = np.empty((len(keys), MEMBER_BLOCK), np.uint8)
        out[...] = np.frombuffer(like.one, np.uint8)
        out[:, :length] = keys
        if not isinstance(sizes, int):
            digits = _octal_digits(sizes, 11)
            out[:, _SIZE_AT : _SIZE_AT + 11] = digits
            sums += digits.sum(axis=1, dtype=np.int64) - 11 * ord("0")
        out[:, CHECKSUM_AT : CHECKSUM_AT + CHECKSUM_DIGITS] = _octal_digits(sums, CHECKSUM_DIGITS)
        return out

    def like(self, key: bytes, size: int) -> Header:
        """Return what headers with such a key and a payload of this size have in common; the last is kept."""
        last = self._last
        if last is None or last.key_length != len(key) or last.size != size:
            one = self.one(key, size)
            checksum = one[CHECKSUM_AT : CHECKSUM_AT + len(_BLANK_CHECKSUM)]
            last = self._last = Header(one, len(key), size, sum(one) - sum(key) - sum(checksum) + sum(_BLANK_CHECKSUM))
        return last
