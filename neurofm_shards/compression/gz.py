"""gzip: one member whose frames are deflate runs that end with a full flush."""

from __future__ import annotations

import gzip
import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, cast

from pydantic import Field

from neurofm_shards.compression.streams import CheckedStream, fill
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Assembler, Compression, PluginConfig

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer

_EMPTY_FINAL_BLOCK = b"\x03\x00"


class GzConfig(PluginConfig):
    """Options of gzip."""

    kind: Literal["gz"] = "gz"
    level: int = Field(4, ge=1, le=9, description="1 is fastest, 9 is smallest; 6 is 10 % smaller and 3x slower")


class _Member(Assembler):
    """Header, deflate runs, an empty final block, CRC-32 and size (RFC 1952)."""

    def __init__(self, level: int) -> None:
        self._extra_flags = {1: 4, 9: 2}.get(level, 0)
        self._crc = 0
        self._size = 0

    def start(self) -> bytes:
        return b"\x1f\x8b\x08\x00\x00\x00\x00\x00" + bytes([self._extra_flags]) + b"\xff"

    def add(self, raw: Buffer, compressed: bytes) -> bytes:
        self._crc = zlib.crc32(raw, self._crc)
        self._size += len(raw)
        return compressed

    def finish(self) -> bytes:
        return _EMPTY_FINAL_BLOCK + struct.pack("<II", self._crc, self._size & 0xFFFFFFFF)


class GzCompression(Compression):
    """gzip that every tool reads and whose frames are read alone.

    A full flush ends each frame on a byte and forgets the window, so frames are independent although the file is one
    gzip member. Bytes always come from zlib; frames are decoded by isal (``pip install isal``) where it is installed.

    Parameters
    ----------
    config : GzConfig, optional
        The level.
    """

    name: ClassVar[str] = "gz"
    suffix: ClassVar[str] = ".gz"
    magic: ClassVar[bytes] = b"\x1f\x8b"
    universal: ClassVar[bool] = True

    def __init__(self, config: GzConfig | None = None) -> None:
        self.config = config or GzConfig()
        _isal()  # imported here, not by a thread that decodes: a fork beside an import hangs in the child

    def compress_frame(self, raw: Buffer) -> bytes:
        """Return one deflate run, ended by a full flush."""
        deflate = zlib.compressobj(self.config.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflate.compress(raw) + deflate.flush(zlib.Z_FULL_FLUSH)

    def decompress_frame(self, data: memoryview, out: memoryview) -> None:
        """Inflate one run; see the base class."""
        inflate, damage = _inflater()
        try:
            part = inflate.decompress(data, len(out) + 1)
        except damage as error:
            raise FormatError(f"damaged gz frame: {error}") from error
        if inflate.eof and inflate.unused_data:
            raise FormatError(f"the gz frame ends {len(inflate.unused_data)} bytes early")
        fill(out, part, "gz")

    def assembler(self) -> Assembler:
        """Return an assembler of one gzip member."""
        return _Member(self.config.level)

    def open(self, file: BinaryIO) -> BinaryIO:
        """Return the decompressed stream of any gzip file, of several members too."""
        stream = gzip.GzipFile(fileobj=file, mode="rb")
        return cast("BinaryIO", CheckedStream(stream, "gz", (OSError, EOFError, zlib.error)))


@cache
def _isal() -> Any:
    """Return the module that inflates, None where it is not installed."""
    try:
        from isal import isal_zlib  # noqa: PLC0415  (optional)
    except ImportError:
        return None
    return isal_zlib


def _inflater() -> tuple[Any, type[Exception]]:
    """Return the fastest raw-deflate decoder there is, and what it raises for damaged bytes."""
    isal_zlib = _isal()
    if isal_zlib is None:
        return zlib.decompressobj(-zlib.MAX_WBITS), zlib.error
    return isal_zlib.decompressobj(-zlib.MAX_WBITS), cast("type[Exception]", isal_zlib.error)
