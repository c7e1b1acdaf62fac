"""LZ4: a chain of frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, ClassVar, Literal, cast

import lz4.frame
from pydantic import Field

from neurofm_shards.compression.streams import CheckedStream, StreamChain, fill
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Compression, PluginConfig

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer


class Lz4Config(PluginConfig):
    """Options of lz4."""

    kind: Literal["lz4"] = "lz4"
    level: int = Field(0, ge=0, le=12, description="0 is fastest; from 3 on slower and smaller, 12 is smallest")


class Lz4Compression(Compression):
    """Independent LZ4 frames with checksums, one behind the other.

    Parameters
    ----------
    config : Lz4Config, optional
        The level.
    """

    name: ClassVar[str] = "lz4"
    suffix: ClassVar[str] = ".lz4"
    magic: ClassVar[bytes] = b"\x04\x22\x4d\x18"

    def __init__(self, config: Lz4Config | None = None) -> None:
        self.config = config or Lz4Config()

    def compress_frame(self, raw: Buffer) -> bytes:
        """Return one frame with its size and checksum."""
        return cast(
            "bytes",
            lz4.frame.compress(
                raw,
                compression_level=self.config.level,
                block_size=lz4.frame.BLOCKSIZE_MAX1MB,
                content_checksum=True,
                store_size=True,
            ),
        )

    def decompress_frame(self, data: memoryview, out: memoryview) -> None:
        """Decompress one frame, never more than ``out`` and one byte; see the base class."""
        decompressor = lz4.frame.LZ4FrameDecompressor()
        try:
            part = decompressor.decompress(data, len(out) + 1)
        except (RuntimeError, EOFError, ValueError) as error:
            raise FormatError(f"damaged lz4 frame: {error}") from error
        fill(out, part, "lz4")
        if not decompressor.eof or decompressor.unused_data:
            raise FormatError("the lz4 frame is truncated, or something follows it")

    def open(self, file: BinaryIO) -> BinaryIO:
        """Return the decompressed stream of any lz4 file, of several frames too."""
        chain = StreamChain(file, lz4.frame.LZ4FrameDecompressor)
        return cast("BinaryIO", CheckedStream(chain, "lz4", (RuntimeError, EOFError, ValueError)))
