"""The decompression limit: the zstd (or isal) library on the same bytes, once, in one thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serve import Contender, serve
from source import Source


class Frames(Contender):
    """Whole files in one call of the library that the plugin uses."""

    def __init__(self) -> None:
        self._files: list[bytes] = []
        self._decompress: Any = None

    def write(self, source: Source, folder: Path, **_: Any) -> None:
        """Refuse."""
        raise ValueError(f"the library alone does not write {folder}")

    def open(self, folder: Path, *, compression: str = "zstd") -> None:
        """Read the files into memory."""
        if compression == "zstd":
            import zstandard

            decompressor = zstandard.ZstdDecompressor()
            self._decompress = lambda data: decompressor.stream_reader(data, read_across_frames=True).read()
        else:
            from isal import igzip

            self._decompress = igzip.decompress
        self._files = [path.read_bytes() for path in sorted(folder.glob("shard_*"))]

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Decompress every file."""
        for data in self._files:
            yield {"tar": self._decompress(data)}


if __name__ == "__main__":
    serve(Frames())
