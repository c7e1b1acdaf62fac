"""Gathering gives exactly the values that were stored, whatever the rows, shards, layouts and ways of reading."""

from __future__ import annotations

import gc
import io
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.blocks import MISSING
from neurofm_shards.errors import ConfigError, FormatError, IntegrityError, SampleIndexError
from neurofm_shards.reading import buffers, row_copy
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.types import Ragged
from neurofm_shards.writing.dataset_writer import WebDatasetWriter

COUNT = 60


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(3)
    return {
        "spikes": rng.poisson(0.5, (COUNT, 20, 7)).astype("u1"),
        "lfp": rng.standard_normal((COUNT, 50, 3)),
        "behavior": rng.standard_normal((COUNT, 4)).astype("f4"),
        "label": rng.integers(-5, 5, COUNT),
        "flags": rng.random((COUNT, 3)) < 0.5,
        "nothing": np.zeros((COUNT, 0, 3), "f4"),
    }


@pytest.fixture(scope="module", params=["npy", "pyd", "foreign", "gz", "xz", "bz2", "foreign gz"])
def folder(request, arrays, foreign, tmp_path_factory):
    """The same samples in seven kinds of shards."""
    where = tmp_path_factory.mktemp("shards")
    if request.param.startswith("foreign"):
        return foreign.folder(where, arrays, 5, suffix=request.param.partition(" ")[2])
    codec = request.param if request.param in ("npy", "pyd") else "pyd"
    compression = request.param if request.param in ("gz", "xz", "bz2") else "none"
    with WebDatasetWriter(where, shard_size=13, codec=codec, compression=compression) as writer:
        for i in range(COUNT):
            writer.write_sample({name: values[i] for name, values in arrays.items()}, metadata={"row": i})
    return where


@pytest.fixture(scope="module", params=["mmap", "mmap, verified", "pread, verified"])
def data(request, folder):
    io, _, verified = request.param.partition(", ")
    with ShardCollection.open(folder, io=io, verify=bool(verified)) as opened:
        yield opened


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, COUNT - 1), max_size=80))
def test_any_rows_in_any_order_with_repeats_are_what_was_stored(data, arrays, rows):
    found = data.gather(np.array(rows, np.int64))
    assert list(found) == list(arrays)
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values[rows])
    assert [entry["row"] for entry in data.metadata(rows)] == rows


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.integers(0, COUNT - 1), max_size=80),
    columns=st.lists(st.sampled_from(["spikes", "lfp", "behavior", "label", "flags", "nothing"]), unique=True),
    step=st.sampled_from([1, 2, -1]),
)
def test_some_columns_of_any_rows_are_what_was_stored(data, arrays, rows, columns, step):
    rows = np.array(rows, np.int64)[::step]  # not always contiguous
    found = data.gather(rows, columns, dtypes={"spikes": "f4"})
    assert list(found) == columns
    for name in columns:
        assert found[name].dtype == ("f4" if name == "spikes" else arrays[name].dtype)
        np.testing.assert_array_equal(found[name], arrays[name][rows])


def test_shards_are_looked_at_when_their_rows_are_asked_for(folder, arrays):
    with ShardCollection.open(folder) as data:
        for row in (59, 0, 30):  # each in a shard of its own, which nobody touched before
            found = data.gather([row, 59], ["lfp", "label"])
            np.testing.assert_array_equal(found["lfp"], arrays["lfp"][[row, 59]])
            np.testing.assert_array_equal(found["label"], arrays["label"][[row, 59]])
        with pytest.raises(SampleIndexError, match="row 60 is out of range"):
            data.gather([0, COUNT], ["lfp"])
        with pytest.raises(ConfigError, match="one-dimensional"):
            data.gather([[0, 1]], ["lfp"])


@pytest.mark.skipif(not row_copy.COMPILED, reason="this package was built without a compiler")
def test_shards_that_turn_out_to_be_compressed_meanwhile_are_decoded(tmp_path, arrays, monkeypatch):
    create_shards_from_arrays(tmp_path, {"lfp": arrays["lfp"]}, shard_size=20, compression="gz")
    find = row_copy.CompiledRows.numbered_rows_into

    def after_another_thread_looked(self, *arguments):
        data.select(np.arange(COUNT))
        return find(self, *arguments)

    monkeypatch.setattr(row_copy.CompiledRows, "numbered_rows_into", after_another_thread_looked)
    with ShardCollection.open(tmp_path) as data:
        np.testing.assert_array_equal(data.gather(np.arange(COUNT))["lfp"], arrays["lfp"])


def test_a_batch_is_new_writeable_memory(data, arrays):
    first = data.gather([3, 4])
    first["lfp"][:] = -1
    np.testing.assert_array_equal(data.gather([3, 4])["lfp"], arrays["lfp"][[3, 4]])


def test_only_the_columns_asked_for_are_there(data):
    assert list(data.gather([1], ["label", "spikes"])) == ["label", "spikes"]
    with pytest.raises(ConfigError, match="no column 'eeg'.*lfp, .*spikes"):
        data.gather([1], ["eeg"])


def test_values_are_converted_while_they_are_copied(data, arrays):
    found = data.gather([5, 2, 59], dtypes={"spikes": "f4", "lfp": np.float16})
    assert found["spikes"].dtype == np.float32
    np.testing.assert_array_equal(found["spikes"], arrays["spikes"][[5, 2, 59]])
    np.testing.assert_array_equal(found["lfp"], arrays["lfp"][[5, 2, 59]].astype("f2"))


def test_large_batches_are_converted_piece_by_piece_in_other_threads(tmp_path):
    rng = np.random.default_rng(5)
    stored = {"x": rng.standard_normal((60, 30, 40)), "counts": rng.integers(0, 256, (60, 100, 96)).astype("u1")}
    create_shards_from_arrays(tmp_path, stored, shard_size=25)
    with ShardCollection.open(tmp_path) as data, ThreadPoolExecutor(1) as thread:
        for _ in range(3):  # the first time, shards are looked at on the way
            rows = rng.permutation(60)
            found = thread.submit(data.gather, rows, dtypes={"counts": "f4"}).result()
            assert found["counts"].dtype == np.float32
            for name, values in stored.items():
                np.testing.assert_array_equal(found[name], values[rows])
        with pytest.raises(SampleIndexError, match="row 60 is out of range"):
            thread.submit(data.gather, np.append(rows, 60), dtypes={"counts": "f4"}).result()


def test_given_arrays_are_filled(data, arrays):
    out = {
        "lfp": np.empty((4, 50, 3)),
        "spikes": np.empty((4, 20, 7), "i4"),
        "behavior": np.empty((4, 8), "f4")[:, ::2],
    }
    rows = [9, 1, 44, 30]
    found = data.gather(rows, list(out), out)
    for name, array in out.items():
        assert found[name] is array
        np.testing.assert_array_equal(array, arrays[name][rows])
    with pytest.raises(ConfigError, match="out has shape"):
        data.gather([1], ["lfp"], {"lfp": np.empty((2, 50, 3))})


@pytest.mark.parametrize("row", [-1, COUNT, 2**62])
def test_rows_out_of_range_are_refused(data, row):
    with pytest.raises(SampleIndexError, match=f"row {row} is out of range: .* {COUNT} samples"):
        data.gather([0, row])


def test_payloads_are_the_stored_bytes(data, arrays):
    from neurofm_shards.plugins.registry import registry

    payload = data.payload(17, "lfp")
    codec = registry().codecs.instance(data.index(0).columns["lfp"].codec)
    np.testing.assert_array_equal(codec.decode(memoryview(payload)), arrays["lfp"][17])


def test_many_threads_get_the_right_rows_under_a_tiny_cache(folder, arrays):
    with ShardCollection.open(folder, cache_bytes=1) as data:
        wrong = []

        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(40):
                rows = rng.integers(0, COUNT, 8)
                found = data.gather(rows)
                if not all(np.array_equal(found[name], values[rows]) for name, values in arrays.items()):
                    wrong.append(rows)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def ragged_folder(where, codec="npy"):
    rng = np.random.default_rng(8)
    lengths = [3, 0, 7, 1, 12, 5, 2, 2, 9]
    times = [rng.random(n).astype("f4") for n in lengths]
    positions = [rng.random((n, 2)) for n in lengths]
    with WebDatasetWriter(where, shard_size=4, codec=codec) as writer:
        for i in range(len(lengths)):
            writer.write_sample({"times": times[i], "position": positions[i], "odd": np.ones((2, i + 1))})
    return times, positions


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("codec", ["npy", "pyd"])
def test_arrays_of_different_length_come_end_to_end(tmp_path, io, codec):
    times, positions = ragged_folder(tmp_path / "d", codec)
    rows = [8, 1, 1, 0, 5, 3]
    with ShardCollection.open(tmp_path / "d", io=io) as data:
        assert data.columns["position"].shape == (None, 2)
        found = data.gather(rows)
        assert isinstance(found["position"], Ragged)
        np.testing.assert_array_equal(found["position"].values, np.concatenate([positions[i] for i in rows]))
        assert [len(part) for part in map(found["times"].__getitem__, range(6))] == [len(times[i]) for i in rows]
        np.testing.assert_array_equal(found["times"].values, np.concatenate([times[i] for i in rows]))
        assert [array.shape for array in found["odd"]] == [(2, i + 1) for i in rows]
        assert data.gather([], ["times"])["times"].offsets.tolist() == [0]
        half = data.gather(rows, ["times"], dtypes={"times": "f2"})["times"].values
        np.testing.assert_array_equal(half, np.concatenate([times[i] for i in rows]).astype("f2"))


def foreign_shard(foreign, folder, payloads, extension="npy", number=0):
    samples = [(f"s{number}_{i:03d}", {f"x.{extension}": data}) for i, data in enumerate(payloads)]
    foreign.write_tar(folder / f"shard_{number:06d}.tar", samples)


def test_column_major_and_byte_swapped_arrays_are_as_right_as_any(tmp_path, foreign):
    values = np.random.default_rng(0).standard_normal((6, 5, 3))
    stored = [
        values[0],
        np.asfortranarray(values[1]),
        values[2],
        np.asfortranarray(values[3]),
    ]
    foreign_shard(foreign, tmp_path, [foreign.npy(array) for array in stored])
    foreign_shard(foreign, tmp_path, [foreign.npy(array.astype(">f8")) for array in values[4:]], number=1)
    with ShardCollection.open(tmp_path) as data:
        assert data.columns["x"].dtype == "<f8"
        rows = [5, 1, 0, 3, 3, 4, 2]
        found = data.gather(rows)["x"]
        assert found.dtype == np.dtype("f8")
        np.testing.assert_array_equal(found, values[rows])
        np.testing.assert_array_equal(data.gather(rows, dtypes={"x": "f4"})["x"], values[rows].astype("f4"))
        for again in ([0, 2], [1], [4, 0]):  # plain ones alone, odd ones alone, both
            np.testing.assert_array_equal(data.gather(again)["x"], values[again])


def test_ragged_arrays_of_odd_layout_are_decoded(tmp_path, foreign):
    values = [np.random.default_rng(n).standard_normal((n, 3)) for n in range(1, 6)]
    stored = [np.asfortranarray(v) if i % 2 else v for i, v in enumerate(values)]
    foreign_shard(foreign, tmp_path, [foreign.npy(array) for array in stored])
    with ShardCollection.open(tmp_path) as data:
        found = data.gather([4, 1, 0, 3])["x"]
        np.testing.assert_array_equal(found.values, np.concatenate([values[i] for i in [4, 1, 0, 3]]))
        assert found.offsets.tolist() == [0, 5, 7, 8, 12]


def test_shards_that_disagree_about_a_column_give_a_list(tmp_path, foreign):
    one, two = np.arange(6, dtype="i4").reshape(2, 3), np.arange(5, dtype="f8")
    foreign_shard(foreign, tmp_path, [foreign.npy(one)])
    foreign_shard(foreign, tmp_path, [foreign.npy(two)], number=1)
    with ShardCollection.open(tmp_path) as data:
        found = data.gather([1, 0])["x"]
        assert isinstance(found, list)
        np.testing.assert_array_equal(found[0], two)
        np.testing.assert_array_equal(found[1], one)
        assert found[1].dtype == np.dtype("i4")


def test_pickles_written_elsewhere_load_through_the_same_door(tmp_path, foreign):
    values = np.random.default_rng(1).standard_normal((5, 4, 2))
    payloads = [pickle.dumps(array, protocol=protocol) for protocol, array in zip([2, 3, 4, 5, 5], values, strict=True)]
    foreign_shard(foreign, tmp_path, payloads, "pyd")
    with ShardCollection.open(tmp_path) as data:
        found = data.gather([4, 0, 2, 1, 3])["x"]
        np.testing.assert_array_equal(np.stack(list(found)), values[[4, 0, 2, 1, 3]])


def test_a_field_that_some_samples_lack_is_missing_there(tmp_path, foreign):
    full, part = (
        {"x.npy": foreign.npy(np.ones(3))},
        {"x.npy": foreign.npy(np.ones(3)), "y.npy": foreign.npy(np.zeros(2))},
    )
    foreign.write_tar(tmp_path / "shard_000000.tar", [("a", full), ("b", part)])
    foreign.write_tar(tmp_path / "shard_000001.tar", [("c", full), ("d", full)])
    with ShardCollection.open(tmp_path) as data:
        found = data.gather([0, 1, 2, 3])
        assert found["x"].shape == (4, 3)
        assert [value is MISSING for value in found["y"]] == [True, False, True, True]
        assert data.metadata([0, 3]) == [{}, {}]
        assert data.has(1, "y")
        assert not data.has(3, "y")
        with pytest.raises(ConfigError, match="'a' of .* has no field 'y'"):
            data.payload(0, "y")


def test_a_damaged_payload_is_named(tmp_path, foreign):
    good = b'{"a": 1}'
    foreign.write_tar(tmp_path / "shard_000000.tar", [("a", {"j.json": good}), ("b", {"j.json": b'{"a": '})])
    with ShardCollection.open(tmp_path) as data:
        assert data.gather([0])["j"] == [{"a": 1}]
        with pytest.raises(FormatError, match=r"'b' of .*shard_000000.tar, column 'j'"):
            data.gather([0, 1])


def test_a_flipped_bit_is_never_delivered_when_verifying(tmp_path, arrays, foreign):
    folder = foreign.folder(tmp_path / "d", {"lfp": arrays["lfp"]}, 2)
    ShardCollection.open(folder).close()  # makes the indexes of what is sound
    path = folder / "shard_000001.tar"
    raw = bytearray(path.read_bytes())
    at = raw.find(arrays["lfp"][40].tobytes())
    raw[at + 100] ^= 1
    path.write_bytes(raw)
    with ShardCollection.open(folder, verify=True) as data:
        data.gather([0, 39, 41])
        with pytest.raises(IntegrityError, match=r"'sample_000000041' of .*shard_000001.tar: its checksum"):
            data.gather([39, 40])
        for read in (lambda: data.metadata([40]), lambda: data.payload(40, "lfp")):
            with pytest.raises(IntegrityError):
                read()
    with ShardCollection.open(folder) as data:
        assert not np.array_equal(data.gather([40])["lfp"][0], arrays["lfp"][40])


def test_a_later_batch_never_changes_one_that_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(buffers, "POOLED_BYTES", 1024)
    monkeypatch.setattr("neurofm_shards.reading.columns.POOLED_BYTES", 1024)
    values = np.random.default_rng(2).standard_normal((40, 300))
    with WebDatasetWriter(tmp_path / "d", shard_size=10) as writer:
        for row in values:
            writer.write_sample({"x": row})
    rng = np.random.default_rng(5)
    with ShardCollection.open(tmp_path / "d") as data:
        kept, places = [], set()
        for turn in range(60):
            rows = rng.integers(0, 40, 8)
            batch = data.gather(rows)["x"]
            places.add(batch.ctypes.data)
            keep = [batch, batch[2:5], torch.from_numpy(batch), torch.from_numpy(batch)[1:3], memoryview(batch)][
                turn % 5
            ]
            chosen = [rows, rows[2:5], rows, rows[1:3], rows][turn % 5]
            if turn % 3:
                kept.append((keep, values[chosen].copy()))
            del batch, keep
        for keep, expected in kept:
            np.testing.assert_array_equal(np.asarray(keep), expected)
        assert len(places) < 60, "buffers that nobody holds are used again"


def test_buffers_are_reused_only_when_nobody_holds_them(monkeypatch):
    monkeypatch.setattr(buffers, "POOLED_BYTES", 64)
    pool = buffers.BufferPool()
    first = pool.empty((10, 10), "f4")
    place = first.ctypes.data
    assert pool.empty((10, 10), "f4").ctypes.data != place
    tensor = torch.from_numpy(first)
    alive = weakref.ref(first)
    del first
    gc.collect()
    assert alive() is not None
    assert pool.empty((10, 10), "f4").ctypes.data != place
    del tensor
    assert place in {pool.empty((10, 10), "f4").ctypes.data for _ in range(1)} or alive() is None
    again = [pool.empty((10, 10), "f4") for _ in range(2)]
    assert place in {array.ctypes.data for array in again}


def test_large_rows_are_copied_too(tmp_path, foreign):
    values = np.random.default_rng(0).standard_normal((3, 40_000))
    foreign_shard(foreign, tmp_path, [foreign.npy(array) for array in values])
    with ShardCollection.open(tmp_path) as data:
        np.testing.assert_array_equal(data.gather([2, 0, 1])["x"], values[[2, 0, 1]])


def test_members_of_an_unknown_extension_are_bytes(tmp_path, foreign):
    foreign.write_tar(tmp_path / "shard_000000.tar", [("a", {"clip.wav": b"RIFF"}), ("b", {"clip.wav": b"RIFX1"})])
    with ShardCollection.open(tmp_path) as data:
        assert data.gather([1, 0])["clip"] == [b"RIFX1", b"RIFF"]


def test_npy_versions_and_odd_headers_are_read(tmp_path, foreign):
    array = np.arange(12.0).reshape(3, 4)
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(2, 0))
    foreign_shard(foreign, tmp_path, [foreign.npy(array), stream.getvalue(), foreign.npy(array + 1, (3, 0))])
    with ShardCollection.open(tmp_path) as data:
        np.testing.assert_array_equal(np.stack(list(data.gather([2, 1, 0])["x"])), [array + 1, array, array])


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_parts_of_a_selection_are_read_apart(data, arrays, lengths, seed):
    rows = np.random.default_rng(seed).integers(0, COUNT, sum(lengths))
    start = 0
    for length, part in zip(lengths, data.select(rows).cut(lengths), strict=True):
        found = data.read(part)
        for name, values in arrays.items():
            np.testing.assert_array_equal(found[name], values[rows[start : start + length]])
            assert found[name].base is None or found[name].base.nbytes <= max(found[name].nbytes, 1) * 2
        start += length


def test_selections_of_other_rows_are_errors(data):
    with pytest.raises(SampleIndexError):
        data.select([0, COUNT])
    with pytest.raises(ConfigError, match="no column 'eeg'"):
        data.select([0], ["eeg"])
