"""Canonical tar headers and their checksums: plain USTAR, no times, no owners; one or thousands at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from neurofm_shards._typing import Bytes, Ints
from neurofm_shards.errors import ConfigError
from neurofm_shards.format.keys import NAME_BYTES
from neurofm_shards.limits import MAX_MEMBER_BYTES

#: Tar's unit: headers are one block, payloads are padded to whole blocks.
MEMBER_BLOCK = 512
#: Two zero blocks end an archive.
END_OF_ARCHIVE = bytes(2 * MEMBER_BLOCK)


_NUMBER = b"%07o\x00"
_OWNER = _NUMBER * 3 % (0o644, 0, 0)
_MTIME = b"%011o\x00" % 0
_BLANK_CHECKSUM = b"        "
_MAGIC = b"ustar\x00" + b"00"
_REST = (b"0" + bytes(100) + _MAGIC + bytes(64) + _NUMBER * 2 % (0, 0)).ljust(512 - 156, b"\0")
_CONSTANT_SUM = sum(_OWNER + _MTIME + _BLANK_CHECKSUM + _REST)
_SIZE_AT, _SIZE_DIGITS = 124, 11
_CHECKSUM_AT, _CHECKSUM_DIGITS = 148, 6


def padded(size: int) -> int:
    """Round a payload's size up to whole blocks."""
    return -(-size // MEMBER_BLOCK) * MEMBER_BLOCK


def header_bytes(name: str, size: int) -> bytes:
    """Return the one canonical header for a member (raises ConfigError)."""
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


def decimal_digits(numbers: Ints, width: int) -> Bytes:
    """Return zero-padded decimal digits as ASCII, shape (n, width)."""
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    return (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)


def _octal_digits(numbers: Ints, width: int) -> Bytes:
    shifts = np.arange(3 * width - 3, -1, -3, dtype=np.int64)
    return (numbers[:, None] >> shifts & 7 | ord("0")).astype(np.uint8)


class MemberHeaders:
    """Makes the headers of one field.

    Parameters
    ----------
    field, extension : str
        The member is called ``key.field.extension``.
    """

    def __init__(self, field: str, extension: str) -> None:
        self._tail = f".{field}.{extension}".encode()

    def one(self, key: bytes, size: int) -> bytes:
        """Return the header of one member."""
        return _header(key + self._tail, size)

    def many(self, keys: Bytes, sizes: int | Ints) -> Bytes:
        """Return the headers of many members, shape (n, 512).

        Parameters
        ----------
        keys : numpy.ndarray of uint8, shape (n, k)
            ASCII keys of equal length.
        sizes : int or numpy.ndarray of int64, shape (n,)
            Payload bytes: of every member, or of each.
        """
        size, each = (sizes, None) if isinstance(sizes, int) else (0, sizes)
        template = self.template(keys[0].tobytes(), size)
        out = np.empty((len(keys), MEMBER_BLOCK), np.uint8)
        template.many(out, keys, template.numeric_fields(keys.sum(axis=1, dtype=np.int64), each))
        return out

    def template(self, key: bytes, size: int, before: bytes = b"", after: bytes = b"") -> HeaderTemplate:
        """Return a template for headers with keys as long as this one, and payloads of this size."""
        return HeaderTemplate(self.one(key, size), key, before, after)


class NumericFields(NamedTuple):
    """What differs between the headers that one template makes, but for the keys.

    Attributes
    ----------
    checksums : numpy.ndarray of uint8, shape (n, 6)
        Octal digits.
    sizes : numpy.ndarray of uint8, shape (n, 11), or None
        Octal digits; None where all have the template's own size.
    """

    checksums: Bytes
    sizes: Bytes | None

    def part(self, start: int, stop: int) -> NumericFields:
        """Return those of some headers."""
        return NumericFields(self.checksums[start:stop], None if self.sizes is None else self.sizes[start:stop])


class HeaderTemplate:
    """A header and the constant bytes around it, into which keys, checksums and sizes are put.

    Parameters
    ----------
    header : bytes
        A header.
    key : bytes
        Its key, with which it begins.
    before, after : bytes
        What stands around it.
    """

    def __init__(self, header: bytes, key: bytes, before: bytes, after: bytes) -> None:
        start, checksum, size = len(before), len(before) + _CHECKSUM_AT, len(before) + _SIZE_AT
        self._bytes = bytearray(before + header + after)
        self._row = np.frombuffer(self._bytes, np.uint8)
        self._key = slice(start, start + len(key))
        self._checksum = slice(checksum, checksum + _CHECKSUM_DIGITS)
        self._size = slice(size, size + _SIZE_DIGITS)
        written = header[_CHECKSUM_AT : _CHECKSUM_AT + len(_BLANK_CHECKSUM)]
        #: What the header's bytes add up to for the checksum, but for the key.
        self._sum = sum(header) - sum(key) - sum(written) + sum(_BLANK_CHECKSUM)

    def __len__(self) -> int:
        return len(self._bytes)

    def one(self, key: bytes, total: int) -> bytearray:
        """Return the bytes for a key, whose bytes add up to ``total``; the same memory each time."""
        self._bytes[self._key] = key
        self._bytes[self._checksum] = b"%06o" % (self._sum + total)
        return self._bytes

    def numeric_fields(self, totals: Ints, sizes: Ints | None = None) -> NumericFields:
        """Return the digits of many headers.

        Parameters
        ----------
        totals : numpy.ndarray of int64, shape (n,)
            What the bytes of each key add up to.
        sizes : numpy.ndarray of int64, shape (n,), optional
            Payload bytes of each, where they differ.
        """
        if sizes is None:
            return NumericFields(_octal_digits(totals + self._sum, _CHECKSUM_DIGITS), None)
        digits = _octal_digits(sizes, _SIZE_DIGITS)
        own = int(self._row[self._size].sum(dtype=np.int64))
        sums = totals + self._sum - own + digits.sum(axis=1, dtype=np.int64)
        return NumericFields(_octal_digits(sums, _CHECKSUM_DIGITS), digits)

    def many(self, out: Bytes, keys: Bytes, digits: NumericFields) -> None:
        """Fill ``out``, shape (n, len(self)), for many keys, shape (n, k)."""
        out[...] = self._row
        out[:, self._key] = keys
        out[:, self._checksum] = digits.checksums
        if digits.sizes is not None:
            out[:, self._size] = digits.sizes
