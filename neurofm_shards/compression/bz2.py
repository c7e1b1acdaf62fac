"""bzip2: one stream, read in sequence."""

from __future__ import annotations

import bz2
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Literal, cast

from pydantic import Field

from neurofm_shards.compression.streams import CheckedStream, StreamChain, fill
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Assembler, Compression, PluginConfig

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer


class Bz2Config(PluginConfig):
    """Options of bzip2."""

    kind: Literal["bz2"] = "bz2"
    level: int = Field(9, ge=1, le=9, description="block size in units of 100 kB; 9 is smallest")


class _Stream(Assembler):
    """One bzip2 stream; its blocks are not byte-aligned, so it is compressed here, in order."""

    def __init__(self, level: int) -> None:
        self._compressor = bz2.BZ2Compressor(level)

    def add(self, raw: Buffer, compressed: bytes) -> bytes:  # noqa: ARG002  (nothing was compressed before)
        return self._compressor.compress(raw)

    def finish(self) -> bytes:
        return self._compressor.flush()


class Bz2Compression(Compression):
    """bzip2 that every tool reads, from its beginning: the whole shard is one frame.

    Parameters
    ----------
    config : Bz2Config, optional
        The level.
    """

    name: ClassVar[str] = "bz2"
    suffix: ClassVar[str] = ".bz2"
    magic: ClassVar[bytes] = b"BZh"
    random_access: ClassVar[bool] = False
    universal: ClassVar[bool] = True

    def __init__(self, config: Bz2Config | None = None) -> None:
        self.config = config or Bz2Config()

    def compress_frame(self, raw: Buffer) -> bytes:  # noqa: ARG002  (blocks of one stream cannot be made apart)
        """Return nothing: the assembler compresses, because blocks of one stream follow each other bit by bit."""
        return b""

    def decompress_frame(self, data: memoryview, out: memoryview) -> None:
        """Decompress a whole file; see the base class."""
        decompressor = bz2.BZ2Decompressor()
        try:
            part = decompressor.decompress(data, len(out) + 1)
        except (OSError, ValueError) as error:
            raise FormatError(f"damaged bz2 data: {error}") from error
        fill(out, part, "bz2")
        if not decompressor.eof:
            raise FormatError("the bz2 stream is truncated")
        if decompressor.unused_data:
            raise FormatError(f"{len(decompressor.unused_data)} bytes follow the bz2 stream")

    def assembler(self) -> Assembler:
        """Return an assembler of one bzip2 stream."""
        return _Stream(self.config.level)

    def open(self, file: BinaryIO) -> BinaryIO:
        """Return the decompressed stream of any bzip2 file, of several streams too."""
        return cast("BinaryIO", CheckedStream(StreamChain(file, bz2.BZ2Decompressor), "bz2", (OSError, EOFError)))
