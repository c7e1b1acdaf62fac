"""A packed index says what the shards' own indexes say, for the shards of its manifest, or it is not there."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format import packed_index
from neurofm_shards.format.index_io import load_index
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.format.packed_index import PACK_NAME, commit_manifest, parse_packed_index, read_packed_index
from neurofm_shards.format.sidecar import read_arrays, sidecar_paths, write_arrays
from neurofm_shards.writing.dataset_writer import WebDatasetWriter

N = 23
pytestmark = pytest.mark.filterwarnings("ignore:samples differ in their fields")


def write(folder, seed=1, shard_size=2):
    """Write columns of all kinds: of one shape, ragged, values, and one that some samples lack."""
    rng = np.random.default_rng(seed)
    with WebDatasetWriter(folder, shard_size=shard_size) as writer:
        for i in range(N):
            sample = {
                "x": rng.random((5, 3)),
                "r": rng.random((i % 4, 2)).astype(np.float32),
                "n": i,
                "s": {"seed": seed},
            }
            writer.write_sample(sample | ({"odd": np.arange(i)} if i % 3 else {}))
    return folder


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch):
    monkeypatch.setattr(packed_index, "LEAST_SHARDS", 2)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data")


def pack(folder):
    return parse_packed_index(folder / ".neurofm" / PACK_NAME, read_manifest(folder))


def test_it_says_of_every_row_what_the_shards_own_indexes_say(folder):
    packed, manifest = pack(folder), read_manifest(folder)
    own = [load_index(folder / entry.shard_name) for entry in manifest.shards]
    some = np.array([4, 0, 11, 7])
    seen = set()
    for column in ("x", "r", "n", "s", "odd", "metadata"):
        for owners, places, found in packed.indexes(some, column):
            for k, (shard, place) in enumerate(zip(owners.tolist(), places.tolist(), strict=True)):
                expected = own[shard].columns.get(column)
                seen.add((shard, place, column))
                if expected is None:
                    assert found is None
                    continue
                assert found.spec.dtype == expected.spec.dtype
                assert found.codec == expected.codec == packed.codec(shard, column)
                assert found.packed_offsets.at(k) == expected.packed_offsets.at(place)
                assert found.packed_sizes.at(k) == expected.packed_sizes.at(place)
                if found.packed_offsets.at(k) >= 0:
                    assert found.place(k) == expected.place(place)
    assert len(seen) == 6 * (2 * 3 + 1)  # the last shard has one sample
    assert [packed.fingerprint(k) for k in range(len(own))] == [index.fingerprint for index in own]


@pytest.mark.parametrize(("shards", "samples"), [(N + 1, 64), (2, 0)])
def test_few_or_large_shards_are_not_packed(tmp_path, monkeypatch, shards, samples):
    monkeypatch.setattr(packed_index, "LEAST_SHARDS", shards)
    monkeypatch.setattr(packed_index, "MOST_SAMPLES", samples)
    assert not (write(tmp_path / "data", shard_size=1) / ".neurofm" / PACK_NAME).exists()


def test_compressed_shards_are_not_packed(tmp_path):
    create_shards_from_arrays(tmp_path / "gz", {"x": np.arange(9.0)[:, None]}, 1, compression="gz")
    assert not (tmp_path / "gz" / ".neurofm" / PACK_NAME).exists()


def test_it_depends_on_the_shards_alone(folder, tmp_path):
    again = write(tmp_path / "again")
    assert (again / ".neurofm" / PACK_NAME).read_bytes() == (folder / ".neurofm" / PACK_NAME).read_bytes()


def test_one_of_other_shards_is_not_believed(folder, tmp_path):
    other = write(tmp_path / "other", seed=2)
    shutil.copy(other / ".neurofm" / PACK_NAME, folder / ".neurofm" / PACK_NAME)
    with pytest.raises(FormatError, match="other shards"):
        pack(folder)
    assert read_packed_index(folder, read_manifest(folder)) is None


def test_none_is_made_where_an_index_is_missing_or_of_another_shard(folder):
    manifest = read_manifest(folder)
    index, _ = sidecar_paths(folder / manifest.shards[3].shard_name)
    before = index.read_bytes()
    for damage in (b"", b"junk" * 100, sidecar_paths(folder / manifest.shards[0].shard_name)[0].read_bytes()):
        index.write_bytes(damage)
        commit_manifest(folder, manifest)
        with pytest.raises(InputNotFoundError):
            pack(folder)
    index.write_bytes(before)
    commit_manifest(folder, manifest)
    assert pack(folder)


def _rewritten(path, change):
    header, arrays = read_arrays(path)
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(header, arrays)
    write_arrays(path, header, arrays)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_stands_in_it_no_value_lies_outside_its_shard(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "hostile"
    if not folder.exists():
        write(folder)
        shutil.copy(folder / ".neurofm" / PACK_NAME, folder / "kept")
    shutil.copy(folder / "kept", folder / ".neurofm" / PACK_NAME)
    numbers = st.one_of(st.integers(-3, 600), st.integers(-(2**62), 2**62), st.sampled_from([2**63 - 1, -(2**63)]))

    def change(header, arrays):
        number = data.draw(numbers)
        if data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(set(arrays) - {"fingerprints"})))
            wide = arrays[name].astype(np.int64)
            wide[data.draw(st.integers(0, len(wide) - 1))] = number
            arrays[name] = wide
            return
        form = data.draw(st.sampled_from(header["columns"]))
        parts = data.draw(st.sampled_from(form[1]))[-1]
        part = parts[data.draw(st.sampled_from(sorted(parts)))]
        where = data.draw(st.integers(0, 4))
        if isinstance(part[where], list):
            part[where][data.draw(st.integers(0, 1))] = number
        else:
            part[where] = number

    try:
        _rewritten(folder / ".neurofm" / PACK_NAME, change)
        packed = pack(folder)
        shards = np.arange(len(packed.num_samples))
        for column in ("x", "r", "n", "odd", "metadata"):
            for owners, _, found in packed.indexes(shards, column):
                limits = packed.tar_bytes[owners]
                for k, limit in enumerate(limits.tolist() if found is not None else []):
                    start, size = found.packed_offsets.at(k), found.packed_sizes.at(k)
                    assert start >= -1
                    assert size >= 0
                    assert start + size <= limit
                    place = found.place(k)
                    if place is not None:
                        assert (
                            place.offset + int(np.prod(place.shape, dtype=object)) * np.dtype(place.dtype).itemsize
                            <= limit
                        )
    except (FormatError, OverflowError):
        pass  # OverflowError: of orjson, which does not write such numbers
