"""Notices where a zstd file is cut off, which the library's stream reader does not.

It follows the headers of frames and blocks (RFC 8878, section 3.1) without decoding anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_RLE = 1


class WholeFrames:
    """A file that raises ``EOFError`` when it ends in the middle of a frame.

    Parameters
    ----------
    file : readable binary file
        The compressed file.
    """

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
