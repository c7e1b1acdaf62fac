"""Shards are opened by the data set's packed index where that is of these very shards, and by their own where not."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest

from neurofm_shards.errors import FormatError
from neurofm_shards.format import packed_index
from neurofm_shards.format.packed_index import PACK_NAME
from neurofm_shards.format.sidecar import read_arrays, write_arrays
from neurofm_shards.reading import catalog
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.writing.dataset_writer import WebDatasetWriter

N = 30
pytestmark = pytest.mark.filterwarnings("ignore:samples differ in their fields")


def samples(seed=0):
    rng = np.random.default_rng(seed)
    for i in range(N):
        sample = {
            "x": rng.random((6, 2)),
            "r": rng.random((i % 5, 3)),
            "f": np.asfortranarray(rng.random((4, 3))),
            "n": i,
        }
        yield sample | ({"odd": np.arange(i)} if i % 3 else {})


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch):
    monkeypatch.setattr(packed_index, "LEAST_SHARDS", 2)


@pytest.fixture
def packed(tmp_path):
    return fill(tmp_path / "packed")


def fill(folder, seed=0):
    with WebDatasetWriter(folder, shard_size=2) as writer:
        for i, sample in enumerate(samples(seed)):
            writer.write_sample(sample, metadata={"i": i})
    assert (folder / ".neurofm" / PACK_NAME).is_file()
    return folder


@pytest.fixture
def no_own_index(monkeypatch):
    """Let nobody read the index of a shard."""

    def refuse(path, *_, **__):
        raise AssertionError(f"the index of {path} was read")

    monkeypatch.setattr(catalog, "load_index", refuse)


def check(collection, rows, seed=0):
    expected = [list(samples(seed))[row] for row in rows]
    found = collection.gather(rows)
    np.testing.assert_array_equal(found["x"], [sample["x"] for sample in expected])
    np.testing.assert_array_equal(found["f"], [sample["f"] for sample in expected])
    for k, sample in enumerate(expected):
        np.testing.assert_array_equal(found["r"][k], sample["r"])
        assert found["n"][k] == sample["n"]
        assert ("odd" in sample) == isinstance(found["odd"][k], np.ndarray)
        np.testing.assert_array_equal(found["odd"][k] if "odd" in sample else [], sample.get("odd", []))
    assert [entry["i"] for entry in collection.metadata(rows)] == list(rows)


ORDER = [29, 3, 3, 0, 17, 16, 8, 22, 1]


def test_values_are_found_without_the_shards_own_indexes(packed, no_own_index, io):
    with ShardCollection.open(packed, io=io) as collection:
        check(collection, ORDER)
        check(collection, range(N))


def test_some_of_the_shards_are_found_as_well(packed, no_own_index):
    with ShardCollection.open(packed, "shard_00000[13]*.tar") as collection:
        found = collection.gather([0, 2, 3])["x"]
    np.testing.assert_array_equal(found, [list(samples())[row]["x"] for row in (2, 6, 7)])


def test_a_copy_in_another_process_finds_them(packed, no_own_index):
    with ShardCollection.open(packed) as collection, pickle.loads(pickle.dumps(collection)) as copy:
        check(copy, ORDER)


def test_keys_and_checksums_come_from_the_shards_own_indexes(packed):
    with ShardCollection.open(packed, verify=True) as collection:
        check(collection, ORDER)
        assert collection.key(7) == "sample_000000008"
        assert collection.find("sample_000000021") == 20
        np.testing.assert_array_equal(collection.array(4, "x"), list(samples())[4]["x"])


def test_a_damaged_one_is_not_used(packed):
    place = packed / ".neurofm" / PACK_NAME
    raw = place.read_bytes()
    for at in range(0, len(raw), max(1, len(raw) // 40)):
        place.write_bytes(raw[:at] + bytes([raw[at] ^ 8]) + raw[at + 1 :])
        with ShardCollection.open(packed) as collection:
            check(collection, ORDER[:3])


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("start", [1 << 20, 1 << 40, -2])
def test_values_outside_their_shards_are_taken_from_the_shards_own_indexes(packed, start, io):
    place = packed / ".neurofm" / PACK_NAME
    header, arrays = read_arrays(place)
    for _, columns in header["columns"]:
        for column in columns:
            for part in ("offsets", "data"):
                column[-1].get(part, [None])[0] = [start, 0]
    write_arrays(place, header, arrays)
    with ShardCollection.open(packed, io=io) as collection:
        check(collection, ORDER)


def test_that_of_another_data_set_is_not_used(packed, tmp_path):
    other = fill(tmp_path / "other", seed=1)
    shutil.copy(other / ".neurofm" / PACK_NAME, packed / ".neurofm" / PACK_NAME)
    with ShardCollection.open(packed) as collection:
        check(collection, ORDER)


def test_a_shard_of_another_data_set_is_refused_as_without_it(packed, tmp_path):
    other = fill(tmp_path / "other", seed=1)
    shutil.copy(other / "shard_000002.tar", packed / "shard_000002.tar")
    messages = []
    for there in (True, False):
        if not there:
            (packed / ".neurofm" / PACK_NAME).unlink()
        with ShardCollection.open(packed) as collection:
            check(collection, [0, 29])
            with pytest.raises(FormatError) as raised:
                collection.gather([4])
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "not the shard that the manifest lists" in messages[0]


def test_a_shard_that_is_replaced_after_it_was_opened_is_noticed(packed, tmp_path, monkeypatch):
    monkeypatch.setattr("neurofm_shards.reading.address_space._MOST_OPEN", 1)
    path = packed / "shard_000002.tar"
    raw = path.read_bytes()
    with ShardCollection.open(packed, io="pread") as collection:
        check(collection, range(N))
        collection._space._open._files.clear()
        os.truncate(path, len(raw) - 512)
        with pytest.raises(FormatError, match="truncated or changed"):
            collection.gather([4])


def test_a_missing_shard_is_said(packed):
    with ShardCollection.open(packed) as collection:
        (packed / "shard_000002.tar").unlink()
        with pytest.raises(FileNotFoundError, match="shard_000002"):
            collection.gather([4])
        check(collection, [0, 29])
