"""xz: one stream of many blocks, with one index."""

from __future__ import annotations

import lzma
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, cast

from pydantic import Field

from neurofm_shards.compression.frames import FRAME_BYTES
from neurofm_shards.compression.streams import CheckedStream, StreamChain, fill
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Assembler, Compression, PluginConfig

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer

#: Stream header (xz file format 1.2.0, 2.1.1) with CRC-64 as check.
_STREAM_HEADER = b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F"
_HEADER_BYTES = _FOOTER_BYTES = 12
#: Most memory a decoder may take: enough for what ``xz -9`` writes.
_MEMORY_LIMIT = 1 << 28


class XzConfig(PluginConfig):
    """Options of xz."""

    kind: Literal["xz"] = "xz"
    preset: int = Field(6, ge=0, le=9, description="0 is fastest, 9 is smallest")


class _Stream(Assembler):
    """Stream header, the blocks, and one index and footer for all of them."""

    def __init__(self) -> None:
        self._records: list[tuple[int, int]] = []

    def start(self) -> bytes:
        return _STREAM_HEADER

    def add(self, raw: Buffer, compressed: bytes) -> bytes:
        unpadded, size = _only_record(compressed)
        if size != len(raw):
            raise FormatError(f"an xz block of {size} bytes was made from {len(raw)}")
        self._records.append((unpadded, size))
        return compressed[_HEADER_BYTES : _HEADER_BYTES + _padded(unpadded)]

    def finish(self) -> bytes:
        index = bytearray(b"\x00" + _vli(len(self._records)))
        for unpadded, size in self._records:
            index += _vli(unpadded) + _vli(size)
        index += bytes(-len(index) % 4)
        index += _crc(index)
        backward = (len(index) // 4 - 1).to_bytes(4, "little") + _STREAM_HEADER[6:8]
        return bytes(index) + _crc(backward) + backward + b"YZ"


class XzCompression(Compression):
    """xz that every tool reads and whose blocks are read alone.

    Each frame is compressed as a stream of one block; the blocks are then put behind one common header, with one
    common index and footer.

    Parameters
    ----------
    config : XzConfig, optional
        The preset.
    """

    name: ClassVar[str] = "xz"
    suffix: ClassVar[str] = ".xz"
    magic: ClassVar[bytes] = b"\xfd7zXZ\x00"
    universal: ClassVar[bool] = True

    def __init__(self, config: XzConfig | None = None) -> None:
        self.config = config or XzConfig()

    def compress_frame(self, raw: Buffer) -> bytes:
        """Return a stream of one block; the dictionary is no larger than a frame can use."""
        filters = [{"id": lzma.FILTER_LZMA2, "preset": self.config.preset, "dict_size": FRAME_BYTES}]
        return lzma.compress(raw, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=filters)

    def decompress_frame(self, data: memoryview, out: memoryview) -> None:
        """Decompress one block; see the base class."""
        decompressor = _decompressor()
        try:
            part = decompressor.decompress(b"".join((_STREAM_HEADER, data)), len(out) + 1)
        except (lzma.LZMAError, EOFError) as error:
            raise FormatError(f"damaged xz frame: {error}") from error
        fill(out, part, "xz")

    def assembler(self) -> Assembler:
        """Return an assembler of one xz stream."""
        return _Stream()

    def open(self, file: BinaryIO) -> BinaryIO:
        """Return the decompressed stream of any xz file, of several streams too."""
        chain = StreamChain(file, _decompressor, padding=b"\x00")
        return cast("BinaryIO", CheckedStream(chain, "xz", (lzma.LZMAError, EOFError)))


def _decompressor() -> Any:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY_LIMIT)


def _only_record(stream: bytes) -> tuple[int, int]:
    """Return unpadded and raw size of the block of a one-block stream, from its index."""
    footer = stream[-_FOOTER_BYTES:]
    start = len(stream) - _FOOTER_BYTES - 4 * (int.from_bytes(footer[4:8], "little") + 1)
    if stream[start : start + 2] != b"\x00\x01":
        raise FormatError("the xz library did not make one block of one frame")
    unpadded, position = _read_vli(stream, start + 2)
    size, _ = _read_vli(stream, position)
    return unpadded, size


def _padded(size: int) -> int:
    return size + -size % 4


def _crc(data: Buffer) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _vli(number: int) -> bytes:
    """Write a variable-length integer: seven bits a byte, lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_vli(data: bytes, position: int) -> tuple[int, int]:
    """Return a variable-length integer and the position behind it."""
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
