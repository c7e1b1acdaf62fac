"""gz, bz2 and xz shards: one file for every tool, many frames for us."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.compression import frames as frames_module
from neurofm_shards.compression.bz2 import Bz2Compression, Bz2Config
from neurofm_shards.compression.frames import (
    FRAME_BYTES,
    FrameTable,
    FrameWriter,
)
from neurofm_shards.compression.gz import GzCompression, GzConfig
from neurofm_shards.compression.xz import XzCompression, XzConfig
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Compression

KINDS = {
    "gz": (GzCompression(GzConfig(level=1)), gzip, "gzip"),
    "bz2": (Bz2Compression(Bz2Config(level=1)), bz2, "bzip2"),
    "xz": (XzCompression(XzConfig(preset=0)), lzma, "xz"),
}
FRAMED = ("gz", "xz")


@pytest.fixture(scope="module")
def tar() -> bytes:
    """A tar of counts and noise, of three and a half frames, made by Python's tarfile."""
    rng = np.random.default_rng(3)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for i in range(50):
            for extension, data in (
                ("spikes.npy", rng.poisson(0.2, 60_000).astype("u1").tobytes()),
                ("metadata.json", b'{"sample_id": "%d"}' % i),
            ):
                info = tarfile.TarInfo(f"sample_{i:09d}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def compressed(
    compression: Compression, raw: bytes, threads: int = 2, piece: int = 100_003
) -> tuple[bytes, FrameTable | None]:
    return written(compression, [raw[i : i + piece] for i in range(0, len(raw), piece)], threads)


def written(compression: Compression, pieces: list[bytes], threads: int) -> tuple[bytes, FrameTable | None]:
    file = io.BytesIO()
    with FrameWriter(file, compression, threads) as writer:
        for part in pieces:
            writer.write(part)
        table = writer.close()
    return file.getvalue(), table


@pytest.mark.parametrize("kind", KINDS)
def test_the_standard_library_and_the_tools_read_the_file(kind: str, tar: bytes, tmp_path: Path) -> None:
    compression, library, tool = KINDS[kind]
    data, _ = compressed(compression, tar)
    assert library.decompress(data) == tar
    assert data.startswith(compression.magic)
    if shutil.which(tool):
        path = tmp_path / f"shard.tar{compression.suffix}"
        path.write_bytes(data)
        subprocess.run([tool, "-t", path], check=True)
        assert subprocess.run([tool, "-dc", path], check=True, capture_output=True).stdout == tar
        names = subprocess.run(["tar", "tf", path], check=True, capture_output=True, text=True).stdout.split()
        assert len(names) == 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["r:*", "r|*", "r|{}"])
def test_tarfile_reads_every_member_also_as_a_stream(kind: str, mode: str, tar: bytes) -> None:
    data, _ = compressed(KINDS[kind][0], tar)
    with tarfile.open(fileobj=io.BytesIO(data), mode=mode.format(kind)) as archive:
        assert sum(1 for _ in archive) == 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_webdataset_reads_every_sample(kind: str, tar: bytes, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / f"shard_000000.tar{KINDS[kind][0].suffix}"
    path.write_bytes(compressed(KINDS[kind][0], tar)[0])
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert len(samples) == 50
    assert {"spikes.npy", "metadata.json"} <= samples[-1].keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_do_not_depend_on_threads_or_on_how_they_came(kind: str, tar: bytes) -> None:
    compression = KINDS[kind][0]
    alone = compressed(compression, tar, threads=1, piece=len(tar))[0]
    assert compressed(compression, tar, threads=3, piece=7_777)[0] == alone
    assert compressed(pickle.loads(pickle.dumps(compression)), tar, threads=2)[0] == alone


@pytest.mark.parametrize("kind", FRAMED)
def test_any_frame_is_read_alone(kind: str, tar: bytes) -> None:
    compression = KINDS[kind][0]
    data, table = compressed(compression, tar)
    assert table is not None
    assert len(table) == -(-len(tar) // FRAME_BYTES)
    for i in reversed(range(len(table))):
        low, high = table.raw_bounds[i : i + 2]
        out = bytearray(high - low)
        start = int(table.file_offsets[i])
        compression.decompress_frame(memoryview(data)[start : start + int(table.file_sizes[i])], memoryview(out))
        assert out == tar[low:high]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("difference", [-1, 1, -999, 1000])
def test_a_frame_of_another_size_is_refused(kind: str, difference: int) -> None:
    compression = KINDS[kind][0]
    data, table = compressed(compression, b"spikes" * 300)
    start, size = (0, len(data)) if table is None else (int(table.file_offsets[0]), int(table.file_sizes[0]))
    with pytest.raises(FormatError, match=r"expected|damaged"):
        compression.decompress_frame(memoryview(data)[start : start + size], memoryview(bytearray(1800 + difference)))


def test_bz2_is_one_frame_and_says_so(tar: bytes) -> None:
    compression = KINDS["bz2"][0]
    data, table = compressed(compression, tar)
    assert table is None
    assert not compression.random_access
    out = bytearray(len(tar))
    compression.decompress_frame(memoryview(data), memoryview(out))
    assert out == tar


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_files_of_several_streams_are_read(kind: str) -> None:
    compression, library, _ = KINDS[kind]
    file = library.compress(b"spikes" * 50_000) + library.compress(b"") + library.compress(b"behavior")
    assert compression.open(io.BytesIO(file)).read() == b"spikes" * 50_000 + b"behavior"


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_tar_is_a_whole_file(kind: str) -> None:
    compression, library, _ = KINDS[kind]
    assert library.decompress(compressed(compression, b"")[0]) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_or_changed_file_is_a_format_error(kind: str, tar: bytes) -> None:
    compression = KINDS[kind][0]
    data, _ = compressed(compression, tar[:300_000])
    for cut in (len(data) - 1, len(data) - 9, len(data) // 2, 15, 5):
        with pytest.raises(FormatError, match=compression.name):
            compression.open(io.BytesIO(data[:cut])).read()
    changed = bytearray(data)
    changed[len(data) // 2] ^= 0xFF
    with pytest.raises(FormatError):
        compression.open(io.BytesIO(changed)).read()


@pytest.mark.parametrize("kind", FRAMED)
def test_a_bomb_is_refused_without_being_decompressed(kind: str) -> None:
    compression, library, _ = KINDS[kind]
    bomb = (
        compression.compress_frame(bytes(200 << 20))
        if kind == "gz"
        else library.compress(bytes(200 << 20), preset=0)[12:]
    )
    code = f"""
import resource, sys
from neurofm_shards.compression.{kind} import {type(compression).__name__}
from neurofm_shards.errors import FormatError
bomb = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {type(compression).__name__}().decompress_frame(memoryview(bomb), memoryview(bytearray(1 << 20)))
except FormatError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], input=bomb, capture_output=True, check=True)
    assert int(done.stdout) < 40 << 10, "kilobytes of memory beyond the start"


def test_gz_frames_are_the_same_without_isal(tar: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    compression = KINDS["gz"][0]
    data, table = compressed(compression, tar)
    assert table is not None
    monkeypatch.setitem(sys.modules, "isal", None)
    frame = memoryview(data)[int(table.file_offsets[1]) : int(table.file_offsets[1] + table.file_sizes[1])]
    out = bytearray(FRAME_BYTES)
    compression.decompress_frame(frame, memoryview(out))
    assert out == tar[FRAME_BYTES : 2 * FRAME_BYTES]
    with pytest.raises(FormatError):
        compression.decompress_frame(frame[:-100], memoryview(out))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 3), st.sampled_from(sorted(KINDS)))
def test_any_pieces_give_the_same_tar_back(sizes: list[int], threads: int, kind: str) -> None:
    compression, library, _ = KINDS[kind]
    pieces = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    original = frames_module.FRAME_BYTES
    frames_module.FRAME_BYTES = 16
    try:
        data, table = written(compression, pieces, threads)
    finally:
        frames_module.FRAME_BYTES = original
    raw = b"".join(pieces)
    assert library.decompress(data) == raw
    if table is not None:
        again = FrameTable.from_arrays(table.to_arrays(), tar_bytes=len(raw), file_bytes=len(data))
        assert all((again.to_arrays()[name] == array).all() for name, array in table.to_arrays().items())


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("raw_bounds"),
        lambda a: a.update(raw_bounds=a["raw_bounds"].astype("f8")),
        lambda a: a.update(raw_bounds=a["raw_bounds"][:-1]),
        lambda a: a.update(raw_bounds=a["raw_bounds"][::-1].copy()),
        lambda a: a.update(raw_bounds=a["raw_bounds"] + 1),
        lambda a: a.update(
            raw_bounds=np.zeros((0,), "i8"), file_offsets=np.zeros(0, "i8"), file_sizes=np.zeros(0, "i8")
        ),
        lambda a: a.update(file_offsets=a["file_offsets"] - 1000),
        lambda a: a.update(file_offsets=a["file_offsets"] + 2**62),
        lambda a: a.update(file_offsets=np.zeros_like(a["file_offsets"])),
        lambda a: a.update(file_sizes=-a["file_sizes"]),
        lambda a: a.update(file_sizes=a["file_sizes"] + 2**62),
        lambda a: a.update(file_sizes=a["file_sizes"][None]),
    ],
)
def test_a_frame_table_that_cannot_be_true_is_refused(change: object, tar: bytes) -> None:
    data, table = compressed(KINDS["gz"][0], tar)
    assert table is not None
    arrays = table.to_arrays()
    change(arrays)
    with pytest.raises(FormatError, match="frame"):
        FrameTable.from_arrays(arrays, tar_bytes=len(tar), file_bytes=len(data))


def test_a_frame_of_a_table_may_not_be_huge() -> None:
    arrays = {
        "raw_bounds": np.array([0, 1 << 40]), "file_offsets": np.array([0]), "file_sizes": np.array([10])
    }  # fmt: skip
    with pytest.raises(FormatError, match="frame decodes"):
        FrameTable.from_arrays(arrays, tar_bytes=1 << 40, file_bytes=10)


def test_the_writer_copies_what_it_is_given() -> None:
    file, buffer = io.BytesIO(), bytearray(b"a" * 1000)
    with FrameWriter(file, KINDS["gz"][0], threads=2) as writer:
        writer.write(buffer)
        buffer[:] = b"b" * 1000
        writer.write(memoryview(buffer))
        writer.close()
    assert gzip.decompress(file.getvalue()) == b"a" * 1000 + b"b" * 1000


def test_an_error_while_compressing_reaches_the_caller() -> None:
    class Broken(GzCompression):
        def compress_frame(self, raw: bytes) -> bytes:
            raise RuntimeError("no room")

    with FrameWriter(io.BytesIO(), Broken(), threads=2) as writer:
        writer.write(bytes(FRAME_BYTES + 1))
        with pytest.raises(RuntimeError, match="no room"):
            writer.close()
