"""One shard: the same bytes however it is written, read by everybody, indexed truly, and never half there."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import tarfile
import warnings
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.blocks import MISSING
from neurofm_shards.errors import ConfigError, EncodeError
from neurofm_shards.format.dataset_record import ShardRecord
from neurofm_shards.format.index_io import build_index, load_index, parse_index
from neurofm_shards.format.metadata_table import MetadataTable, load_table, metadata_of_shard, part_of
from neurofm_shards.format.sidecar import sidecar_paths
from neurofm_shards.types import Block, ColumnSpec, Ragged
from neurofm_shards.writing.shard_writer import ShardWriter
from neurofm_shards.writing.sinks import FileSink

N = 130


def columns(seed=0, n=N):
    rng = np.random.default_rng(seed)
    return {
        "spikes": rng.poisson(1.0, (n, 10, 7)).astype("u1"),
        "lfp": rng.standard_normal((n, 5, 3)).astype(">f4"),
        "flag": rng.random(n) > 0.5,
        "empty": np.zeros((n, 0, 3)),
        "turned": rng.standard_normal((n, 4, 6)).transpose(0, 2, 1),
    }


METADATA = {
    "none": [{} for _ in range(N)],
    "same": [{"subject": "M1", "rate": 1.0}] * N,
    "growing": [{"i": i, "text": "x" * (5 * i), "of numpy": np.float32(i)} for i in range(N)],
    "nested": [{"list": [1, 2], "d": {"a": None}, "array": np.arange(3)} for _ in range(N)],
}


def write_in_blocks(path, cols, metadata, cuts=(0, 50, N), keys=None, **options):
    writer = ShardWriter(path, 2, **options)
    for a, b in pairwise(cuts):
        part = {name: values[a:b] for name, values in cols.items()}
        writer.write_block(Block(part, metadata[a:b], keys=None if keys is None else keys[a:b]))
    return writer.close()


def write_one_by_one(path, cols, metadata, keys=None, **options):
    writer = ShardWriter(path, 2, **options)
    for i in range(N):
        sample = {name: values[i, ...] for name, values in cols.items()}
        writer.write_sample(None if keys is None else keys[i], sample, metadata[i])
    return writer.close()


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("codec", ["pyd", "npy"])
@pytest.mark.parametrize("keys", [None, [f"ses.{i}" for i in range(N)]])
def test_blocks_and_single_samples_give_the_same_bytes(tmp_path, name, codec, keys):
    (tmp_path / "b").mkdir()
    one, other = tmp_path / "s.tar", tmp_path / "b" / "s.tar"
    first = write_in_blocks(one, columns(), METADATA[name], codec=codec, keys=keys)
    second = write_one_by_one(other, columns(), METADATA[name], codec=codec, keys=keys, overlap=False)
    assert one.read_bytes() == other.read_bytes()
    assert first == second
    for a, b in zip(sidecar_paths(one), sidecar_paths(other), strict=True):
        assert a.read_bytes() == b.read_bytes()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, N), max_size=6), st.booleans())
def test_where_blocks_are_cut_does_not_matter(tmp_path_factory, cuts, overlap):
    folder = tmp_path_factory.mktemp("cuts")
    write_in_blocks(folder / "a.tar", columns(), METADATA["growing"])
    write_in_blocks(folder / "b.tar", columns(), METADATA["growing"], cuts=sorted([0, N, *cuts]), overlap=overlap)
    assert (folder / "a.tar").read_bytes() == (folder / "b.tar").read_bytes()


@pytest.mark.parametrize("mode", ["r:", "r|"])
def test_tarfile_finds_what_was_written(tmp_path, mode):
    write_in_blocks(tmp_path / "s.tar", columns(), METADATA["growing"])
    names = []
    with tarfile.open(tmp_path / "s.tar", mode) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.mode, member.uname) == (0, 0, 0, 0o644, "")
            assert not member.pax_headers
            payload = tar.extractfile(member).read()
            key, field, extension = member.name.split(".")
            if key not in names:
                names.append(key)
            if extension == "pyd":
                value = pickle.loads(payload)
                expected = columns()[field][names.index(key), ...]
                np.testing.assert_array_equal(value, expected)
                assert value.shape == expected.shape
            else:
                assert json.loads(payload)["sample_idx_in_shard"] == names.index(key)
    assert names == [f"sample_{i + 1:09d}" for i in range(N)]


def test_the_tar_program_reads_it(tmp_path):
    write_in_blocks(tmp_path / "s.tar", columns(), METADATA["none"])
    done = subprocess.run(["tar", "tf", tmp_path / "s.tar"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.split()) == N * 6


@pytest.mark.parametrize("compression", ["none", "gz", "xz", "bz2"])
def test_webdataset_decodes_the_same_numbers(tmp_path, compression):
    path = tmp_path / ("s.tar" if compression == "none" else f"s.tar.{compression}")
    write_in_blocks(path, columns(), METADATA["growing"], compression=compression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        samples = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
    assert [s["__key__"] for s in samples] == [f"sample_{i + 1:09d}" for i in range(N)]
    for i, sample in enumerate(samples):
        for name, values in columns().items():
            np.testing.assert_array_equal(sample[f"{name}.pyd"], values[i])
        assert sample["metadata.json"]["text"] == "x" * (5 * i)


@pytest.mark.parametrize("compression", ["none", "gz", "xz", "bz2"])
@pytest.mark.parametrize("name", METADATA)
def test_the_index_made_while_writing_is_the_one_rebuilt_from_the_shard(tmp_path, compression, name):
    path = tmp_path / ("s.tar" if compression == "none" else f"s.tar.{compression}")
    record = write_in_blocks(path, columns(), METADATA[name], compression=compression)
    kept, rebuilt = parse_index(sidecar_paths(path)[0]), build_index(path)  # as written: a wrong one is made anew
    assert kept.keys() == rebuilt.keys()
    assert kept.checksum == rebuilt.checksum == record.entry.checksum
    assert kept.fingerprint == rebuilt.fingerprint
    np.testing.assert_array_equal(kept.record_offsets, rebuilt.record_offsets)
    np.testing.assert_array_equal(kept.digests, rebuilt.digests)
    assert list(kept.columns) == list(rebuilt.columns)
    for column, other in zip(kept.columns.values(), rebuilt.columns.values(), strict=True):
        assert (column.spec, column.codec, column.extension) == (other.spec, other.codec, other.extension)
        assert column.packed_offsets.array().tolist() == other.packed_offsets.array().tolist()
        assert column.payload_sizes.tolist() == other.payload_sizes.tolist()
        assert str(column.data_offsets) == str(other.data_offsets)


@pytest.mark.parametrize("name", METADATA)
def test_the_metadata_table_made_while_writing_is_the_one_rebuilt_from_the_members(tmp_path, name):
    path = tmp_path / "s.tar"
    write_in_blocks(path, columns(), METADATA[name], keys=[f"é{i}" for i in range(N)])
    kept = load_table(path, load_index(path))
    rebuilt = MetadataTable([part_of(list(metadata_of_shard(path, load_index(path))))])
    assert (kept.names, kept.omitted) == (rebuilt.names, rebuilt.omitted)
    for column in kept.names:
        assert kept.kind(column) == rebuilt.kind(column)
        assert kept.values(column).tolist() == rebuilt.values(column).tolist()


def test_data_offsets_point_at_the_raw_bytes(tmp_path):
    write_in_blocks(tmp_path / "s.tar", columns(), METADATA["growing"])
    raw = (tmp_path / "s.tar").read_bytes()
    index = load_index(tmp_path / "s.tar")
    for name, values in columns().items():
        column = index.columns[name]
        assert column.spec.shape == values.shape[1:]
        for i, at in enumerate(column.data_offsets.tolist()):
            found = np.frombuffer(raw, column.spec.dtype, int(np.prod(values.shape[1:])), at)
            np.testing.assert_array_equal(found.reshape(values.shape[1:]), values[i])
    digests = [xxhash.xxh3_64_intdigest(raw[a:b]) for a, b in pairwise(index.record_offsets)]
    assert index.digests.tolist() == digests


def test_ragged_lists_and_gaps(tmp_path):
    values = np.arange(30, dtype="f4").reshape(15, 2)
    ragged = Ragged(values, np.array([0, 4, 4, 15]))
    block = Block(
        {"times": ragged, "note": ["a", MISSING, {"b": [1]}], "odd": [np.zeros(2), np.zeros((1, 1)), 5]},
        [{}] * 3,
        keys=["x", "y", "z"],
    )
    writer = ShardWriter(tmp_path / "s.tar", 0, specs={"times": ColumnSpec("times", "<f4", (None, 2), "s", "units")})
    writer.write_block(block)
    record = writer.close()
    index = load_index(tmp_path / "s.tar")
    times = index.columns["times"]
    assert times.spec == ColumnSpec("times", "<f4", (None, 2), "s", "units")
    assert times.shapes.tolist() == [[4, 2], [0, 2], [11, 2]]
    raw = (tmp_path / "s.tar").read_bytes()
    for i, (at, shape) in enumerate(zip(times.data_offsets, times.shapes, strict=True)):
        np.testing.assert_array_equal(np.frombuffer(raw, "<f4", shape.prod(), at).reshape(shape), ragged[i])
    assert index.columns["note"].payload_offsets[1] == -1
    assert index.columns["odd.pyd"].data_offsets is None
    assert index.columns["odd.json"].payload_offsets[:2].tolist() == [-1, -1]
    entries = {column.name: column for column in record.columns}
    assert (entries["note"].num_samples, entries["note"].optional) == (2, True)
    assert (entries["times"].num_samples, entries["times"].optional) == (3, False)
    assert ShardRecord.model_validate(record.model_dump()) == pickle.loads(pickle.dumps(record)) == record


def test_tensors_are_taken_without_importing_torch():
    code = "import sys; import neurofm_shards.writing.shard_writer; print('torch' in sys.modules)"
    done = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_tensor_is_stored_as_its_array(tmp_path):
    torch = pytest.importorskip("torch")
    values = torch.arange(12, dtype=torch.int16).reshape(3, 4).t()
    with ShardWriter(tmp_path / "s.tar", 0) as writer:
        writer.write_sample(None, {"x": values, "y": torch.tensor(2.5)}, {"t": torch.tensor(3)})
    with tarfile.open(tmp_path / "s.tar") as tar:
        payload = {m.name: tar.extractfile(m).read() for m in tar}
    np.testing.assert_array_equal(pickle.loads(payload["sample_000000001.x.pyd"]), values.numpy())
    assert json.loads(payload["sample_000000001.metadata.json"])["t"] == 3


def test_a_record_larger_than_the_buffers(tmp_path):
    big = np.random.default_rng(0).integers(0, 255, (3, 2_500_000), np.uint8)
    for path, write in ((tmp_path / "a.tar", "block"), (tmp_path / "b.tar", "sample")):
        with ShardWriter(path, 0, overlap=write == "block") as writer:
            if write == "block":
                writer.write_block(Block({"x": big, "y": np.arange(3.0)}, [{}] * 3))
            else:
                for i in range(3):
                    writer.write_sample(None, {"x": big[i], "y": np.array(float(i))})
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert build_index(tmp_path / "a.tar").checksum == load_index(tmp_path / "a.tar").checksum


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, overlap, compression):
    path = tmp_path / ("s.tar" if compression == "none" else "s.tar.gz")
    writer = ShardWriter(path, 0, overlap=overlap, compression=compression)
    written = 0
    real = os.write

    def full(descriptor, data):
        nonlocal written
        written += len(data)
        if written > 3_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    if compression == "none":
        monkeypatch.setattr("neurofm_shards.writing.sinks.os.write", full)
    else:
        writer._sink._frames._file = _Full()
    noise = np.random.default_rng(0).integers(0, 255, (40, 200_000), np.uint8)
    big = Block({"x": np.concatenate([noise] * 3)}, [{}] * 120)
    with pytest.raises(OSError, match="No space left"), writer:
        writer.write_block(big)
    assert files(tmp_path) == []


class _Full(io.BytesIO):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["save_index", "save_part", "Folder.move", "shard_record"])
def test_an_error_at_any_step_of_closing_leaves_nothing(tmp_path, monkeypatch, step):
    def broken(*_args, **_kwargs):
        raise OSError(errno.EIO, "broken")

    writer = ShardWriter(tmp_path / "s.tar", 0)
    writer.write_sample(None, {"x": np.zeros(3)})
    monkeypatch.setattr(f"neurofm_shards.writing.shard_writer.{step}", broken)
    with pytest.raises(OSError, match="broken"):
        writer.close()
    assert files(tmp_path) == []


def test_nothing_has_the_shard_s_name_before_it_is_whole(tmp_path):
    writer = ShardWriter(tmp_path / "shard_000000.tar", 0)
    writer.write_block(Block({"x": np.zeros((100, 5000))}, [{}] * 100))
    assert not list(tmp_path.glob("shard_*"))
    writer.abort()
    assert files(tmp_path) == []


def test_an_empty_shard_is_refused(tmp_path):
    writer = ShardWriter(tmp_path / "s.tar", 0)
    with pytest.raises(ConfigError, match="no samples"):
        writer.close()
    writer.abort()


def test_a_refused_sample_leaves_the_shard_usable(tmp_path):
    writer = ShardWriter(tmp_path / "s.tar", 0)
    writer.write_sample("a", {"x": np.zeros(3)})
    for sample, metadata in (
        ({"x": object()}, None),
        ({"x": np.zeros(1), "y": np.array(["t"])}, None),
        ({"x": 1}, {"m": object()}),
    ):
        with pytest.raises(EncodeError):
            writer.write_sample("b", sample, metadata)
    with pytest.raises(ConfigError, match="twice"):
        writer.write_sample("a", {"x": np.zeros(3)})
    writer.write_sample("b", {"x": np.zeros(3)})
    writer.close()
    assert build_index(tmp_path / "s.tar").keys() == ["a", "b"]


def test_numbers_of_automatic_keys_may_have_gaps(tmp_path):
    with ShardWriter(tmp_path / "s.tar", 0) as writer:
        writer.write_block(
            Block({"x": np.zeros((6, 2))}, [{}] * 6), np.array([3, 4, 9, 10, 999_999_999, 1_000_000_000])
        )
    assert build_index(tmp_path / "s.tar").keys()[-2:] == ["sample_999999999", "sample_1000000000"]


def test_reused_buffers_leave_no_trace(tmp_path):
    full = np.full((60, 99_000), 255, np.uint8)
    blocks = [({"x": full}, [{}] * 60), ({"x": full[:, :1001]}, [{"i": "y" * i} for i in range(60)])]
    with ShardWriter(tmp_path / "a.tar", 0, overlap=False) as one, ShardWriter(tmp_path / "b.tar", 0) as other:
        for cols, metadata in [*blocks, *blocks]:
            one.write_block(Block(cols, metadata))
            for i in range(60):
                other.write_sample(None, {"x": cols["x"][i]}, metadata[i])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("length", [9_000, 130_000, 2_000_000])
def test_writes_end_where_huge_pages_end(tmp_path, monkeypatch, length, one_by_one):
    ends, submit = [0], FileSink.submit

    def noted(sink, buffer, used):
        ends.append(ends[-1] + used)
        submit(sink, buffer, used)

    monkeypatch.setattr(FileSink, "submit", noted)
    count = 2 + 9_000_000 // length
    data = np.random.default_rng(5).integers(0, 255, (count, length), np.uint8)
    path = tmp_path / "shard.tar"
    with ShardWriter(path, 0, overlap=False) as writer:
        if one_by_one:
            for row in data:
                writer.write_block(Block({"x": row[None]}, [{}]))
        else:
            writer.write_block(Block({"x": data}, [{}] * count))
    assert len(ends) > 4
    assert all(end % (2 << 20) == 0 for end in ends[:-1])
    with tarfile.open(path) as tar:
        payloads = [tar.extractfile(member).read() for member in tar if not member.name.endswith(".json")]
    assert all(row.tobytes() in payload for row, payload in zip(data, payloads, strict=True))


def test_records_larger_than_a_buffer_stand_among_small_ones(tmp_path):
    sizes = [1000, 3_000_000, 7, 2_097_152, 2_095_000, 1_500_000, 5_000_000, 600_000, 1]
    rng = np.random.default_rng(6)
    values = [rng.integers(0, 255, size, np.uint8) for size in sizes]
    path = tmp_path / "shard.tar"
    with ShardWriter(path, 0) as writer:
        for value in values:
            writer.write_block(Block({"x": value[None]}, [{}]))
    with tarfile.open(path) as tar:
        payloads = [tar.extractfile(member).read() for member in tar if not member.name.endswith(".json")]
    assert all(value.tobytes() in payload for value, payload in zip(values, payloads, strict=True))
    index, rebuilt = load_index(path), build_index(path)
    assert index.digests.tolist() == rebuilt.digests.tolist()
