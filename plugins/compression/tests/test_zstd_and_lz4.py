"""zstd and lz4 shards."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from neurofm_shards.compression.frames import FrameWriter
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing.compressions import CompressionConformance
from neurofm_shards_compression.lz4 import Lz4Compression
from neurofm_shards_compression.zstd import ZstdCompression

RAW = np.random.default_rng(5).poisson(0.3, 2_500_000).astype("u1").tobytes()
KINDS: dict[str, Compression] = {"zstd": ZstdCompression(), "lz4": Lz4Compression()}


class TestZstd(CompressionConformance):
    name = "zstd"


class TestLz4(CompressionConformance):
    name = "lz4"
    options: ClassVar[Mapping[str, Any]] = {"level": 3}


def compressed(compression: Compression) -> bytes:
    file = io.BytesIO()
    with FrameWriter(file, compression, 2) as writer:
        writer.write(RAW)
        writer.close()
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tool_reads_our_files_and_we_read_the_tools(kind: str, tmp_path: Path) -> None:
    if shutil.which(kind) is None:
        pytest.skip(f"the {kind} tool is not installed")
    path = tmp_path / "ours"
    path.write_bytes(compressed(KINDS[kind]))
    assert subprocess.run([kind, "-dc", path], check=True, capture_output=True).stdout == RAW
    made = subprocess.run([kind, "-c"], input=RAW, check=True, capture_output=True).stdout
    assert KINDS[kind].open(io.BytesIO(made + made)).read() == RAW * 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_inside_a_frame_is_noticed(kind: str) -> None:
    compression = KINDS[kind]
    frames = [compression.compress_frame(RAW[i * 1000 : i * 1000 + 1000]) for i in range(2)]
    data, boundaries = b"".join(frames), {0, len(frames[0]), sum(map(len, frames))}
    for size in range(len(data) + 1):
        if size in boundaries:
            compression.open(io.BytesIO(data[:size])).read()
        else:
            with pytest.raises(FormatError):
                compression.open(io.BytesIO(data[:size])).read()


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_by_the_checksum(kind: str) -> None:
    compression = KINDS[kind]
    frame = bytearray(compression.compress_frame(RAW[:5000]))
    frame[-1] ^= 1
    with pytest.raises(FormatError):
        compression.decompress_frame(memoryview(frame), memoryview(bytearray(5000)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_refused(kind: str) -> None:
    compression = KINDS[kind]
    bomb = compression.compress_frame(bytes(100 << 20))
    with pytest.raises(FormatError):
        compression.decompress_frame(memoryview(bomb), memoryview(bytearray(1 << 20)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_suffix_finds_the_compression(kind: str) -> None:
    found = registry().compressions.by_suffix("shard_000000.tar" + KINDS[kind].suffix)
    assert found is not None
    assert found.entry.name == kind
