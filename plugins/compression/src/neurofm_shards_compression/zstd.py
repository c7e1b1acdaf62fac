"""Zstandard: a chain of frames."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, cast

import zstandard
from pydantic import Field

from neurofm_shards.compression.streams import CheckedStream, fill
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Compression, PluginConfig

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer

#: Largest window a foreign file may ask for, in bytes.
_MAX_WINDOW = 1 << 27
#: Type of a block that is one byte, repeated.
_RLE = 1


class ZstdConfig(PluginConfig):
    """Options of zstd."""

    kind: Literal["zstd"] = "zstd"
    level: int = Field(3, ge=1, le=19, description="1 is fastest, 19 is smallest")


class _Contexts(threading.local):
    """The library's contexts: costly to make, and only for one thread each."""

    def __init__(self, level: int) -> None:
        self.compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)


class ZstdCompression(Compression):
    """Independent zstd frames with checksums, one behind the other.

    Parameters
    ----------
    config : ZstdConfig, optional
        The level.
    """

    name: ClassVar[str] = "zstd"
    suffix: ClassVar[str] = ".zst"
    magic: ClassVar[bytes] = b"\x28\xb5\x2f\xfd"

    def __init__(self, config: ZstdConfig | None = None) -> None:
        self.config = config or ZstdConfig()
        self._contexts = _Contexts(self.config.level)

    def __reduce__(self) -> tuple[type[ZstdCompression], tuple[ZstdConfig]]:
        return type(self), (self.config,)

    def compress_frame(self, raw: Buffer) -> bytes:
        """Return one frame with its size and checksum."""
        compressed: bytes = self._contexts.compressor.compress(raw)
        return compressed

    def decompress_frame(self, data: memoryview, out: memoryview) -> None:
        """Decompress one frame; its declared size is checked first. See the base class."""
        try:
            declared = zstandard.frame_content_size(data)
            if declared != len(out):
                raise FormatError(f"the zstd frame declares {declared} bytes, but {len(out)} were expected")
            part = self._contexts.decompressor.decompress(data, max_output_size=len(out), allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FormatError(f"damaged zstd frame: {error}") from error
        fill(out, part, "zstd")

    def open(self, file: BinaryIO) -> BinaryIO:
        """Return the decompressed stream of any zstd file, of several frames too."""
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        whole = cast("BinaryIO", _WholeFrames(file))
        stream = decompressor.stream_reader(whole, read_across_frames=True, closefd=False)
        return cast("BinaryIO", CheckedStream(stream, "zstd", (zstandard.ZstdError, EOFError)))


class _WholeFrames:
    """A binary file that raises ``EOFError`` where it ends inside a frame, which the library does not notice."""

    # It follows the headers of frames and blocks (RFC 8878, section 3.1) without decoding anything.

    def __init__(self, file: Any) -> None:
        self._file = file
        self._needs = self._parts()
        self._header = bytearray()
        self._wanted, self._skip = next(self._needs)

    def read(self, size: int = -1) -> bytes:
        """Read like the file under it."""
        data: bytes = self._file.read(size)
        if data:
            self._follow(memoryview(data))
        elif size and not self._at_boundary():
            raise EOFError("it ends in the middle of a frame")
        return data

    def _at_boundary(self) -> bool:
        return self._wanted == 4 and self._skip == -1 and not self._header

    def _follow(self, data: memoryview) -> None:
        """Pass the headers and blocks in ``data``."""
        while len(data):
            if self._skip > 0:
                passed = min(self._skip, len(data))
                self._skip -= passed
            else:
                passed = min(self._wanted - len(self._header), len(data))
                self._header += data[:passed]
            data = data[passed:]
            while self._skip <= 0 and len(self._header) == self._wanted:
                self._wanted, self._skip = next(self._needs)

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Yield what comes next: a header of so many bytes, or (0, bytes to skip); (4, -1) between frames."""
        while True:
            yield 4, -1
            magic = self._taken()
            if magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5:
                yield 4, 0
                yield 0, int.from_bytes(self._taken(), "little")
                continue
            yield 1, 0
            yield from self._frame(self._taken()[0])

    def _frame(self, descriptor: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of one frame behind its descriptor."""
        single, checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        content = (single, 2, 4, 8)[descriptor >> 6]
        yield 0, (1 - single) + dictionary + content
        last = False
        while not last:
            yield 3, 0
            block = int.from_bytes(self._taken(), "little")
            last = bool(block & 1)
            yield 0, 1 if block >> 1 & 3 == _RLE else block >> 3
        yield 0, 4 * checksum

    def _taken(self) -> bytes:
        header = bytes(self._header)
        self._header.clear()
        return header
