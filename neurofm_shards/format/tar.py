"""Read tar archives that anyone may have made (USTAR, GNU and PAX) in one pass, and refuse hostile ones."""

from __future__ import annotations

import mmap
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import xxhash

from neurofm_shards.errors import FormatError, UnsupportedError
from neurofm_shards.format.headers import padded
from neurofm_shards.format.keys import split_name

_BLOCK = 512
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_CHUNK = 1 << 20
#: Most zeros behind the end of an archive (tar programs pad to their record size).
MAX_TAIL_BYTES = 1 << 20
#: Longest name of a foreign member, and largest PAX header.
MAX_NAME_BYTES = 4096
MAX_PAX_BYTES = 1 << 16
MAX_EXTENSIONS = 16

_REGULAR, _FOLDER, _LONG_NAME, _PAX, _PAX_GLOBAL = b"0\x007", b"5", b"L", b"x", b"g"
_REFUSED = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a named pipe",
    b"K": "a link", b"S": "a sparse file", b"V": "a volume label", b"M": "a part of a file", b"D": "a GNU dump folder",
}  # fmt: skip
_PAX_RECORD = re.compile(rb"(\d{1,6}) ([^=]{1,200})=")
_PAX_NUMBER = re.compile(rb"\d{1,18}")


class Cursor(ABC):
    """A position in a tar that only moves forward."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.position = 0

    @abstractmethod
    def peek(self, size: int) -> memoryview | bytes:
        """Return the next bytes, which ``skip_to`` then passes; FormatError where there are fewer."""

    @abstractmethod
    def skip_to(self, position: int) -> None:
        """Move forward; FormatError beyond the end."""

    @abstractmethod
    def rest(self) -> bytes:
        """Return everything that is left: the end of the archive, zeros only."""

    def hold(self) -> None:  # noqa: B027  (only a stream has to remember)
        """Note that a member's headers begin here, which may begin a new record."""

    def release(self) -> None:  # noqa: B027
        """Note that what was held belongs to the current record."""

    def begin(self) -> None:  # noqa: B027
        """Note that what was held begins a new record."""

    @abstractmethod
    def digest(self, start: int, stop: int) -> int:
        """Return xxh3_64 of a record that has just ended."""

    def header(self) -> bytes | None:
        """Return the next header; None at the end of the archive."""
        if self.total == 0:
            raise self.error("the file is empty")
        block = bytes(self.peek(_BLOCK))
        if block.count(0) == _BLOCK:
            return None
        self.skip_to(self.position + _BLOCK)
        return block

    def error(self, what: str) -> FormatError:
        """Return an error that names shard and offset."""
        return FormatError(f"{self.name}, byte {self.position:,}: {what}")

    def refusal(self, what: str) -> UnsupportedError:
        """Return the error for an archive that may be sound."""
        return UnsupportedError(f"{self.name}, byte {self.position:,}: {what}")

    def truncated(self) -> FormatError:
        """Return the error for an archive that ends too early."""
        return self.error("the shard is truncated: it stops inside a member or has no end-of-archive blocks")

    def check_tail(self, tail: bytes, length: int) -> bytes:
        """Return the end of the archive after checking that nothing else follows the last member."""
        if length > MAX_TAIL_BYTES:
            raise self.refusal(f"more than {MAX_TAIL_BYTES:,} bytes follow the end of the archive")
        if tail.count(0) != len(tail):
            what = "something follows the end of the archive: two archives in one file, or hidden data"
            raise self.refusal(what) if _holds_header(tail) else self.error(what)
        if length < 2 * _BLOCK:
            raise self.truncated()
        return tail


def has_checksum(header: bytes) -> bool:
    """Return whether a block is a tar header, by its checksum."""
    stated = _OCTAL.fullmatch(header[148:156])
    # Old tars on odd machines summed signed bytes; tarfile and GNU tar accept both, and names here are text anyway.
    return stated is not None and int(stated[1], 8) == sum(header) - sum(header[148:156]) + 256


def _holds_header(tail: bytes) -> bool:
    """Return whether a member begins somewhere behind the end of an archive."""
    blocks = (tail[at : at + _BLOCK] for at in range(0, len(tail) - _BLOCK + 1, _BLOCK))
    return any(has_checksum(block) for block in blocks if any(block))


class BufferCursor(Cursor):
    """A whole tar in memory (or mapped)."""

    def __init__(self, buffer: memoryview, name: str, limit: int | None) -> None:
        super().__init__(name, buffer.nbytes)
        self._buffer = buffer.cast("B")
        if limit is not None and buffer.nbytes > limit:
            raise self.refusal(f"the archive has {buffer.nbytes:,} bytes; at most {limit:,} were expected")

    def peek(self, size: int) -> memoryview:
        """Return a view of the next bytes."""
        part = self._buffer[self.position : self.position + size]
        if len(part) < size:
            raise self.truncated()
        return part

    def skip_to(self, position: int) -> None:
        """Move forward."""
        if position > len(self._buffer):
            raise self.truncated()
        self.position = position

    def rest(self) -> bytes:
        """Return what is left."""
        left = len(self._buffer) - self.position
        tail = bytes(self._buffer[self.position : self.position + MAX_TAIL_BYTES])
        self.position = len(self._buffer)
        return self.check_tail(tail, left)

    def digest(self, start: int, stop: int) -> int:
        """Hash a record."""
        return xxhash.xxh3_64_intdigest(self._buffer[start:stop])


class StreamCursor(Cursor):
    """A tar that comes out of a stream (a decompressor, say), in bounded memory."""

    def __init__(self, file: BinaryIO, name: str, limit: int | None) -> None:
        super().__init__(name, None)
        self._file = file
        self._limit = limit
        self._ahead = b""
        self._hash = xxhash.xxh3_64()
        self._held: list[bytes] = []
        self._holding = True
        self._read_bytes = 0

    def peek(self, size: int) -> bytes:
        """Return the next bytes."""
        while len(self._ahead) < size:
            more = self._read(size - len(self._ahead))
            if not more:
                raise self.error("the file is empty") if self._read_bytes == 0 else self.truncated()
            self._ahead += more
        return self._ahead[:size]

    def skip_to(self, position: int) -> None:
        """Move forward, hashing what is passed."""
        while self.position < position:
            if not self._ahead:
                self.peek(min(position - self.position, _CHUNK))
            passed = self._ahead[: position - self.position]
            self._ahead = self._ahead[len(passed) :]
            self.position += len(passed)
            if self._holding:
                self._held.append(passed)
            else:
                self._hash.update(passed)

    def hold(self) -> None:
        """Keep what is passed from here on out of the running hash: it may begin the next record."""
        self._holding = True

    def release(self) -> None:
        """Count what was held as part of the current record."""
        self._hash.update(b"".join(self._held))
        self._held.clear()
        self._holding = False

    def begin(self) -> None:
        """Start the hash of a new record."""
        self._hash.reset()

    def digest(self, start: int, stop: int) -> int:  # noqa: ARG002  (the running hash knows)
        """Return the running hash."""
        return self._hash.intdigest()

    def rest(self) -> bytes:
        """Return what is left."""
        tail = self._ahead
        while len(tail) <= MAX_TAIL_BYTES and (more := self._read(_CHUNK)):
            tail += more
        self.position += len(tail)
        return self.check_tail(tail[:MAX_TAIL_BYTES], len(tail))

    def _read(self, size: int) -> bytes:
        more = self._file.read(size)
        self._read_bytes += len(more)
        if self._limit is not None and self._read_bytes > self._limit:
            raise self.refusal(f"the shard decompresses to more than {self._limit:,} bytes, which is taken for a bomb")
        return more


def cursor_over(source: bytes | memoryview | BinaryIO, name: str, limit: int | None) -> Cursor:
    """Return the cursor for a buffer or a file."""
    if isinstance(source, (bytes, bytearray, memoryview, mmap.mmap)):
        return BufferCursor(memoryview(source), name, limit)
    return StreamCursor(source, name, limit)


class Member(NamedTuple):
    """One file in a shard that belongs to a sample.

    Attributes
    ----------
    name : str
        As in the archive.
    key, field, extension : str
        See :func:`~neurofm_shards.format.keys.split_name`.
    offset, size : int
        Payload, in bytes of the (decompressed) tar.
    start : int
        First byte of the member's first header.
    """

    name: str
    key: str
    field: str
    extension: str
    offset: int
    size: int
    start: int


class TarReader:
    """Goes through an archive once; every oddity is an error that names shard and offset.

    Parameters
    ----------
    source : bytes-like or binary file
        The tar, not compressed. A file need not be seekable.
    name : str
        What to call the shard in errors.
    limit : int, optional
        Most bytes the archive may have (of a decompressed stream, say).
    digests : bool
        Whether to hash each sample on the way.

    Attributes
    ----------
    record_offsets : list of int
        Start of each sample's first header; with the end of the last one appended once the archive has been read.
    record_digests : list of int
        xxh3_64 of each sample's whole record (headers, payloads, padding), when asked for.
    skipped : list of str
        Members that belong to no sample (folders, hidden files, ``__like_this__``).
    tar_bytes : int
        Length of the whole archive, once it has been read.
    tail : bytes
        Everything behind the last sample, once the archive has been read (zeros only; at most 1 MiB).
    """

    def __init__(
        self,
        source: bytes | memoryview | BinaryIO,
        *,
        name: str = "shard",
        limit: int | None = None,
        digests: bool = False,
    ) -> None:
        self._cursor: Cursor = cursor_over(source, name, limit)
        self._hashing = digests
        self.name = name
        self.record_offsets: list[int] = []
        self.record_digests: list[int] = []
        self.skipped: list[str] = []
        self.tar_bytes = 0
        self.tail = b""

    def __iter__(self) -> Iterator[Member]:
        """Yield the members of samples; those of one sample are neighbours, and no key or member comes twice."""
        seen_keys: set[str] = set()
        key, fields = None, set[tuple[str, str]]()
        for member_name, start, offset, size in self._files():
            parts = split_name(member_name)
            if parts is None:
                self.skipped.append(member_name)
                continue
            if parts.key != key:
                key = parts.key
                if key in seen_keys:
                    raise self._refusal(
                        start, f"key {key!r} comes a second time; keys must be unique and samples in one piece"
                    )
                seen_keys.add(key)
                fields.clear()
                self._begin_record(start)
            if parts[1:] in fields:
                raise self._refusal(start, f"member {member_name!r} comes a second time")
            fields.add((parts.field, parts.extension))
            yield Member(member_name, *parts, offset, size, start)

    def head(self, member: Member, size: int = 512) -> memoryview:
        """Return the first bytes of the payload of the member that was just given."""
        if self._cursor.position != member.offset:
            raise RuntimeError("ask for a member's head once, before the next member")
        return memoryview(self._cursor.peek(min(size, member.size)))

    def _begin_record(self, start: int) -> None:
        if self.record_offsets:
            self._end_record(start)
        self.record_offsets.append(start)
        self._cursor.begin()

    def _end_record(self, stop: int) -> None:
        if self._hashing:
            self.record_digests.append(self._cursor.digest(self.record_offsets[-1], stop))

    def _files(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield (name, start, offset, size) of regular files; extension headers are taken in on the way."""
        cursor, overrides, start, end, extensions = self._cursor, _Overrides(), 0, 0, 0
        while True:
            header_at = cursor.position
            header = cursor.header()
            if header is None:
                break
            kind, size = self._checked(header, header_at)
            if kind in _REGULAR:
                size = overrides.size if overrides.size is not None else size
                name = overrides.name if overrides.name is not None else self._name(header, header_at)
                self._check_fits(cursor.position, size)
                offset = cursor.position
                yield self._checked_name(name, header_at), start, offset, size
                end = offset + padded(size)
                cursor.release()
                cursor.skip_to(end)
                cursor.hold()
                overrides, start, extensions = _Overrides(), end, 0
            elif kind == _FOLDER and size == 0:
                self.skipped.append(self._checked_name(self._name(header, header_at), header_at))
                cursor.release()
                cursor.hold()
                overrides, start, end, extensions = _Overrides(), cursor.position, cursor.position, 0
            else:
                extensions += 1
                if extensions > MAX_EXTENSIONS:
                    raise self._refusal(
                        header_at, f"more than {MAX_EXTENSIONS} extension headers stand before one member"
                    )
                overrides = self._extension(kind, size, header_at, overrides)
        if start != header_at:
            raise self._error(header_at, "an extension header is the last thing in the archive: it is truncated")
        self._finish(end)

    def _finish(self, end: int) -> None:
        if self.record_offsets:
            self._end_record(end)
        self.record_offsets.append(end)
        self.tail = self._cursor.rest()
        self.tar_bytes = self._cursor.position

    def _check_fits(self, offset: int, size: int) -> None:
        total = self._cursor.total
        if total is not None and offset + padded(size) > total:
            raise self._error(
                offset, f"a member of {size:,} bytes reaches beyond the end ({total:,} bytes): the shard is truncated"
            )

    def _checked(self, header: bytes, at: int) -> tuple[bytes, int]:
        if not has_checksum(header):
            other = "" if at else " (recordings are for the commands inspect and convert)"
            raise self._error(at, f"a header's checksum is wrong: the shard is damaged, or not a tar{other}")
        kind = header[156:157]
        if kind == b"\0" and header[:100].rstrip(b"\0").endswith(b"/"):
            kind = _FOLDER  # as the oldest tars said it
        if kind in _REFUSED:
            raise self._refusal(at, f"a member is {_REFUSED[kind]}; shards hold plain files only")
        return kind, self._size(header[124:136], at)

    def _size(self, digits: bytes, at: int) -> int:
        if digits[0] & 0x80:
            size = int.from_bytes(bytes([digits[0] & 0x7F]) + digits[1:], "big")
            if digits[0] == 0xFF or size >= 1 << 62:
                raise self._refusal(at, "a member's size is negative or absurd")
            return size
        octal = _OCTAL.fullmatch(digits)
        if octal is None:
            raise self._refusal(at, f"a member's size is {digits!r}, which is no octal number")
        return int(octal[1], 8)

    def _name(self, header: bytes, at: int) -> bytes:
        name, prefix = self._text(header[:100], at), self._text(header[345:500], at)
        if header[257:263] != b"ustar\0":
            # Elsewhere these bytes say other things, which some programs take for a part of the name.
            if header[257:263] not in (b"ustar ", bytes(6)) or prefix:
                raise self._refusal(at, "a header is of an unknown kind: neither USTAR, PAX, GNU nor the oldest tar")
            return name
        return prefix + b"/" + name if prefix else name

    def _text(self, raw: bytes, at: int) -> bytes:
        text = raw.rstrip(b"\0")
        if b"\0" in text:
            raise self._refusal(at, f"a name holds a NUL byte: {text[:60]!r}")
        return text

    def _checked_name(self, raw: bytes, at: int) -> str:
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            raise self._refusal(at, f"member name {raw[:60]!r} is not UTF-8") from error
        if not name or not name.isprintable():
            raise self._refusal(at, f"member name {name[:60]!r} is empty or holds control characters")
        if name.startswith("/") or ".." in name.split("/") or "\\" in name:
            raise self._refusal(at, f"member name {name[:60]!r} leads out of the archive")
        return name

    def _extension(self, kind: bytes, size: int, at: int, overrides: _Overrides) -> _Overrides:
        if kind not in (_LONG_NAME, _PAX, _PAX_GLOBAL):
            raise self._refusal(at, f"a member is of the unknown type {kind!r}")
        if size > MAX_PAX_BYTES:
            raise self._refusal(at, f"an extension header has {size:,} bytes; {MAX_PAX_BYTES:,} are allowed")
        self._check_fits(self._cursor.position, size)
        offset = self._cursor.position
        blocks = bytes(self._cursor.peek(padded(size)))
        self._cursor.skip_to(offset + padded(size))
        if kind == _LONG_NAME:
            if blocks[size:].strip(b"\0"):
                raise self._refusal(at, "a long name goes on beyond its size, where programs differ in what they read")
            return self._overridden(overrides, at, name=self._bounded(self._text(blocks[:size], at), at))
        records = self._pax_records(blocks[:size], at)
        if kind == _PAX_GLOBAL:
            if b"path" in records or b"size" in records:
                raise self._refusal(at, "a global PAX header overrides names or sizes")
            return overrides
        return self._pax_overrides(records, at, overrides)

    def _bounded(self, name: bytes, at: int) -> bytes:
        if len(name) > MAX_NAME_BYTES:
            raise self._refusal(at, f"a member name has {len(name):,} bytes; {MAX_NAME_BYTES:,} are allowed")
        return name

    def _pax_overrides(self, records: dict[bytes, bytes], at: int, overrides: _Overrides) -> _Overrides:
        if any(word.startswith(b"GNU.sparse") for word in records):
            raise self._refusal(at, "a member is a sparse file; shards hold plain files only")
        if b"path" in records:
            overrides = self._overridden(overrides, at, name=self._bounded(records[b"path"], at))
        if b"size" in records:
            if not _PAX_NUMBER.fullmatch(records[b"size"]):
                raise self._refusal(at, f"a PAX header says a size of {records[b'size'][:30]!r}")
            overrides = self._overridden(overrides, at, size=int(records[b"size"]))
        return overrides

    def _overridden(self, overrides: _Overrides, at: int, **said: bytes | int) -> _Overrides:
        if any(getattr(overrides, word) is not None for word in said):  # programs differ in which one they believe
            raise self._refusal(at, f"two extension headers before one member each give its {' and '.join(said)}")
        return _Overrides(**{**overrides._asdict(), **said})

    def _pax_records(self, payload: bytes, at: int) -> dict[bytes, bytes]:
        records: dict[bytes, bytes] = {}
        position = 0
        while position < len(payload):
            match = _PAX_RECORD.match(payload, position)
            stop = position + int(match[1]) if match else 0
            if match is None or not match.end() < stop <= len(payload) or payload[stop - 1 : stop] != b"\n":
                raise self._error(at, "a PAX header is damaged")
            if match[2] in records:
                raise self._refusal(at, f"a PAX header says {match[2]!r} twice")
            records[match[2]] = payload[match.end() : stop - 1]
            position = stop
        return records

    def _refusal(self, at: int, what: str) -> UnsupportedError:
        return UnsupportedError(f"{self.name}, byte {at:,}: {what}")

    def _error(self, at: int, what: str) -> FormatError:
        return FormatError(f"{self.name}, byte {at:,}: {what}")


class _Overrides(NamedTuple):
    """What extension headers say about the next file."""

    name: bytes | None = None
    size: int | None = None
