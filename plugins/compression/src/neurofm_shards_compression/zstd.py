"""Zstandard: a chain of frames."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Literal, cast

import zstandard
from pydantic import Field

from neurofm_shards.compression.streams import CheckedStream, fill
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.config import PluginConfig
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards_compression.zstd_frames import WholeFrames

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer

#: Largest window a foreign file may ask for, in bytes.
_MAX_WINDOW = 1 << 27


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
        whole = cast("BinaryIO", WholeFrames(file))
        stream = decompressor.stream_reader(whole, read_across_frames=True, closefd=False)
        return cast("BinaryIO", CheckedStream(stream, "zstd", (zstandard.ZstdError, EOFError)))
