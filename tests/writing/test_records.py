"""Samples of one form that come one by one are written as any sample is, wherever such a run begins and ends."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import EncodeError
from neurofm_shards.format.index_io import build_index, parse_index
from neurofm_shards.format.sidecar import sidecar_paths
from neurofm_shards.types import Block
from neurofm_shards.writing.shard_writer import ShardWriter

#: Makes a sample of a form from a number: arrays that runs are made of, and what interrupts them.
FORMS = {
    "one array": lambda i: {"x": np.arange(12.0).reshape(3, 4) + i},
    "another shape": lambda i: {"x": np.arange(8.0).reshape(2, 4) + i},
    "another type": lambda i: {"x": (np.arange(12).reshape(3, 4) + i).astype("u1")},
    "two arrays": lambda i: {"x": np.arange(12.0).reshape(3, 4) + i, "y": np.full(700, i, "<i2")},
    "in another order": lambda i: {"y": np.full(700, i, "<i2"), "x": np.arange(12.0).reshape(3, 4) + i},
    "no axes": lambda i: {"x": np.array(float(i))},
    "nothing in it": lambda i: {"x": np.zeros((0, 4)), "y": np.array([i], "<i2")},
    "truth": lambda i: {"x": np.array([i % 2 == 0, True])},
    "complex": lambda i: {"x": np.array([i, 1j])},
    "a tensor": lambda i: {"x": torch.arange(12.0).reshape(3, 4) + i},
    "big-endian": lambda i: {"x": (np.arange(5.0) + i).astype(">f8")},
    "turned": lambda i: {"x": (np.arange(12.0).reshape(3, 4) + i).T},
    "with a list": lambda i: {"x": np.arange(4.0), "events": [i, "text"]},
}
KEYS = [lambda _: None, lambda i: f"s{i:05d}", lambda i: f"{'long' * (i % 3)}.{i}"]
#: What is said of each: nothing, little, and texts around the ends of blocks.
SAID = [lambda _: {}, lambda i: {"i": i}, lambda i: {"text": "x" * (300 * (i // 2 % 3))}]

stretches = st.lists(
    st.tuples(st.sampled_from([*FORMS]), st.integers(1, 12), st.integers(0, 2), st.integers(0, 2)),
    min_size=1,
    max_size=8,
)


def written(folder, stretches, codec):
    """Write stretches of samples; return the shard's path and (key, sample, metadata) of each."""
    path, said = folder / "s.tar", []
    with ShardWriter(path, 3, codec=codec) as writer:
        for form, count, key, metadata in stretches:
            for _ in range(count):
                i = len(said)
                sample, own = FORMS[form](i), SAID[metadata](i)
                said.append((writer.write_sample(KEYS[key](i), sample, own), sample, own))
    return path, said


def canonical(name, payload):
    """The member as tarfile writes it, with nothing but name and size in its header, and device numbers of zero."""
    info = tarfile.TarInfo(name)
    info.size = len(payload)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[329:345] = b"0000000\x000000000\x00"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\x00 " % sum(block)
    return bytes(block) + payload + bytes(-len(payload) % 512)


def decoded(payload, extension):
    if extension == "json":
        return json.loads(payload)
    return np.load(io.BytesIO(payload)) if extension == "npy" else pickle.loads(payload)


@settings(max_examples=150, deadline=None)
@given(stretches, st.sampled_from(["pyd", "npy"]))
def test_every_sample_is_there_as_it_was_given(tmp_path_factory, stretches, codec):
    path, said = written(tmp_path_factory.mktemp("runs"), stretches, codec)
    with tarfile.open(path) as tar:
        members = iter([(member.name, tar.extractfile(member).read()) for member in tar])
    for number, (key, sample, own) in enumerate(said):
        for field, value in sample.items():
            name, payload = next(members)
            assert name.startswith(f"{key}.{field}.")
            found, expected = decoded(payload, name.rpartition(".")[2]), value
            if isinstance(value, list):
                assert found == value
                continue
            expected = np.asarray(value)
            assert found.shape == expected.shape
            assert found.dtype == expected.dtype.newbyteorder("<")
            assert found.tobytes() == expected.astype(expected.dtype.newbyteorder("<")).tobytes()
        name, payload = next(members)
        assert name == f"{key}.metadata.json"
        metadata = json.loads(payload)
        assert {name: metadata[name] for name in own} == own
        assert (metadata["sample_idx_in_shard"], metadata["modalities"]) == (number, [*sample])
    assert next(members, None) is None


@settings(max_examples=150, deadline=None)
@given(stretches, st.sampled_from(["pyd", "npy"]))
def test_headers_are_canonical_and_the_index_is_the_one_rebuilt_from_the_shard(tmp_path_factory, stretches, codec):
    path, _ = written(tmp_path_factory.mktemp("runs"), stretches, codec)
    with tarfile.open(path) as tar:
        parts = [canonical(member.name, tar.extractfile(member).read()) for member in tar]
    assert path.read_bytes() == b"".join(parts) + bytes(1024)
    made, rebuilt = parse_index(sidecar_paths(path)[0]), build_index(path)  # as written: a wrong one is made anew
    assert (made.num_samples, made.keys()) == (rebuilt.num_samples, rebuilt.keys())
    assert np.array_equal(made.digests, rebuilt.digests)
    assert np.array_equal(made.packed_records.array(), rebuilt.packed_records.array())
    assert list(made.columns) == list(rebuilt.columns)
    for name, column in made.columns.items():
        again = rebuilt.columns[name]
        assert (column.spec, column.codec, column.extension) == (again.spec, again.codec, again.extension)
        for places in ("payload_offsets", "payload_sizes", "data_offsets", "shapes"):
            assert np.array_equal(getattr(column, places), getattr(again, places)), (name, places)


def test_a_refused_sample_ends_no_run_and_a_block_ends_one(tmp_path):
    path = tmp_path / "s.tar"
    with ShardWriter(path, 0) as writer:
        for i in range(4):
            writer.write_sample(None, FORMS["one array"](i))
        with pytest.raises(EncodeError):
            writer.write_sample(None, {"x": np.arange(12.0).reshape(3, 4), "bad": object()})
        writer.write_sample(None, FORMS["one array"](4))
        writer.write_block(Block({"x": np.arange(96.0).reshape(8, 3, 4)}, [{}] * 8))
        writer.write_sample(None, FORMS["one array"](5))
    made, rebuilt = parse_index(sidecar_paths(path)[0]), build_index(path)
    assert made.num_samples == 14
    assert np.array_equal(made.digests, rebuilt.digests)
    assert np.array_equal(made.columns["x"].data_offsets, rebuilt.columns["x"].data_offsets)
    raw = path.read_bytes()
    starts = made.columns["x"].data_offsets.tolist()
    found = [np.frombuffer(raw, "<f8", 12, start)[0] for start in starts]
    assert found == [0, 1, 2, 3, 4, *range(0, 96, 12), 5]
