"""What the compressions have in common: streams that fail with our errors only, and bounded decoding."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from neurofm_shards.errors import FormatError

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer

_INPUT_BYTES = 1 << 16


class Decompressor(Protocol):
    """What ``bz2``, ``lzma`` and ``lz4`` decompressors offer."""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether more compressed bytes are needed to go on."""

    @property
    def unused_data(self) -> bytes | None:
        """What followed the end of the stream."""

    def decompress(self, data: Any, max_length: int = -1) -> bytes:
        """Decode at most ``max_length`` bytes."""


class CheckedStream(io.RawIOBase):
    """A readable stream whose decoding errors are :class:`FormatError`.

    Parameters
    ----------
    stream : readable binary file
        What decodes; closed together with this one.
    what : str
        Name of the format, for messages.
    errors : tuple of exception types
        What the decoder raises for damaged bytes.
    """

    def __init__(self, stream: Any, what: str, errors: tuple[type[Exception], ...]) -> None:
        super().__init__()
        self._stream = stream
        self._what = what
        self._errors = errors

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        view = memoryview(buffer).cast("B")
        try:
            part = self._stream.read(len(view))
        except self._errors as error:
            raise FormatError(f"damaged or truncated {self._what} data: {error}") from error
        view[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """Close the decoder (not the file under it)."""
        if not self.closed:
            self._stream.close()
        super().close()


class StreamChain(io.RawIOBase):
    """Decodes streams that stand one behind the other in a file, with bounded memory.

    Parameters
    ----------
    file : readable binary file
        Compressed bytes.
    start : callable
        Gives a new decompressor for each stream.
    padding : bytes
        Byte that may be repeated between and behind streams.
    """

    def __init__(self, file: BinaryIO, start: Callable[[], Decompressor], padding: bytes = b"") -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._padding = padding
        self._decoder: Decompressor | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes; nothing at the end of the last stream."""
        if size < 0:
            return self.readall()
        while size:
            data = self._input()
            if data is None or self._decoder is None:
                return b""
            part = self._decoder.decompress(data, size)
            if part:
                return part
        return b""

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end of the last stream."""
        view = memoryview(buffer).cast("B")
        part = self.read(len(view))
        view[: len(part)] = part
        return len(part)

    def _input(self) -> bytes | None:
        """Return the next input of the decoder, empty where it needs none; None at the end of the file."""
        if self._decoder is not None and not self._decoder.eof:
            data = self._file.read(_INPUT_BYTES) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not data:
                raise EOFError("it ends in the middle of a stream")
            return data
        rest = b"" if self._decoder is None else (self._decoder.unused_data or b"").lstrip(self._padding)
        while not rest:
            data = self._file.read(_INPUT_BYTES)
            if not data:
                return None
            rest = data.lstrip(self._padding)
        self._decoder = self._start()
        return rest


def fill(out: memoryview, part: Buffer, what: str) -> None:
    """Copy a decoded frame into ``out``, which it must fill exactly."""
    if len(part) != len(out):
        found = "more" if len(part) > len(out) else f"only {len(part)} bytes"
        raise FormatError(f"the {what} frame holds {found}, but {len(out)} bytes were expected")
    out[:] = part
