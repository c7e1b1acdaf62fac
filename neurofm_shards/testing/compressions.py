"""What every compression must do."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing.comparing import damaged, same


class CompressionConformance:
    """Checks a registered compression. Set ``name``.

    Attributes
    ----------
    name : str
        The compression's registered name.
    options : mapping
        Its options.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    @property
    def compression(self) -> Compression:
        """The compression under test."""
        return cast("Compression", registry().compressions.make({"kind": self.name, **self.options}))

    @property
    def frames(self) -> list[bytes]:
        """Raw frames to try: repetitive, random, of counts, tiny, empty-looking."""
        rng = np.random.default_rng(7)
        counts = rng.poisson(0.3, 60_000).astype(np.uint8).tobytes()
        return [b"spikes " * 9_000, rng.bytes(50_000), counts, b"x", bytes(70_000)]

    def assembled(self) -> tuple[bytes, list[tuple[int, int]]]:
        """Return a whole file of all frames, and where each frame's bytes lie in it."""
        compression = self.compression
        assembler = compression.assembler()
        file, places = bytearray(assembler.start()), []
        for raw in self.frames:
            part = assembler.add(raw, compression.compress_frame(raw))
            places.append((len(file), len(file) + len(part)))
            file += part
        file += assembler.finish()
        return bytes(file), places

    def test_the_entry_says_what_the_class_says(self) -> None:
        """Name, suffix and magic agree, and a file begins with the magic."""
        entry, compression = registry().compressions.get(self.name).entry, self.compression
        assert (entry.name, entry.suffix, entry.magic) == (compression.name, compression.suffix, compression.magic)
        assert entry.suffix.startswith(".")
        assert self.assembled()[0].startswith(entry.magic)

    def test_the_whole_file_decompresses(self) -> None:
        """``open`` gives all frames' raw bytes."""
        file, _ = self.assembled()
        raw = self.compression.open(BytesIO(file)).read()
        assert same(raw, b"".join(self.frames)), "open() gives other bytes than went in"

    def test_frames_decompress_alone_and_in_any_order(self) -> None:
        """The frame table is all that is needed."""
        compression = self.compression
        if not compression.random_access:
            pytest.skip("the compression says that its shards are read in sequence")
        file, places = self.assembled()
        for (start, stop), raw in reversed(list(zip(places, self.frames, strict=True))):
            out = bytearray(len(raw))
            compression.decompress_frame(memoryview(file)[start:stop], memoryview(out))
            assert same(bytes(out), raw), "a frame alone gives other bytes than went in"

    def test_a_frame_of_another_size_is_refused(self) -> None:
        """Too long a frame may be a bomb; too short a one leaves bytes unset."""
        compression = self.compression
        raw = b"0123456789" * 1000
        file = self._one_frame(raw)
        for wrong in (len(raw) - 1, len(raw) + 1, 1):
            with pytest.raises(FormatError, match="."):
                compression.decompress_frame(memoryview(file), memoryview(bytearray(wrong)))

    def test_damaged_frames_give_format_errors_only(self) -> None:
        """Whatever the bytes, ``decompress_frame`` fills ``out`` or raises ``FormatError``."""
        compression = self.compression
        raw = self.frames[2][:5000]
        for data in damaged(self._one_frame(raw)):
            try:
                compression.decompress_frame(memoryview(data), memoryview(bytearray(len(raw))))
            except FormatError as error:
                assert str(error), "say what is wrong"  # noqa: PT017  (other errors must fail the test)

    def test_damaged_files_give_format_errors_only(self) -> None:
        """Whatever the bytes, the stream of ``open`` gives bytes or raises ``FormatError``."""
        raw = self.frames[2][:5000]
        for data in damaged(self._one_frame(raw)):
            try:
                with self.compression.open(BytesIO(data)) as stream:
                    while stream.read(1 << 16):
                        pass
            except FormatError as error:
                assert str(error), "say what is wrong"  # noqa: PT017  (other errors must fail the test)

    def test_a_file_is_opened_piece_by_piece(self) -> None:
        """A few bytes of a file that decodes to 64 MiB take a few bytes: the file may be a bomb."""
        compression = self.compression
        assembler = compression.assembler()
        frame = bytes(1 << 20)
        compressed = compression.compress_frame(frame)
        parts = [assembler.start(), *(assembler.add(frame, compressed) for _ in range(64)), assembler.finish()]
        file = BytesIO(b"".join(parts))
        tracemalloc.start()
        try:
            with compression.open(file) as stream:
                first = stream.read(16)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert first == bytes(16)
        assert peak < 16 << 20, f"16 bytes of the stream took {peak:,} bytes: decode as much as is asked for"

    def test_threads_give_the_same_bytes(self) -> None:
        """``compress_frame`` is pure."""
        compression = self.compression
        alone = [compression.compress_frame(raw) for raw in self.frames]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(compression.compress_frame, self.frames * 4))
        # same() gives a plain boolean: pytest would explain how megabytes differ, for minutes.
        assert same(together, alone * 4), "threads give other bytes than one thread"

    def test_it_works_in_a_data_set(self, tmp_path: Path) -> None:
        """Written by the shard writer and read back in any order."""
        from neurofm_shards import ShardDataset, create_shards_from_arrays  # noqa: PLC0415  (needs torch)

        x = np.random.default_rng(3).normal(size=(40, 100, 30))
        create_shards_from_arrays(tmp_path / "shards", {"x": x}, shard_size=25, compression=self.name)
        dataset = ShardDataset(tmp_path / "shards")
        for i in (39, 0, 24, 25, 7):
            np.testing.assert_array_equal(dataset[i]["x"].numpy(), x[i])

    def _one_frame(self, raw: bytes) -> bytes:
        compression = self.compression
        assembler = compression.assembler()
        start = assembler.start()
        part = assembler.add(raw, compression.compress_frame(raw))
        if compression.random_access:
            return part
        return start + part + assembler.finish()
