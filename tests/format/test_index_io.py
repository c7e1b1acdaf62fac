"""A sidecar is believed only when it is whole, is of this shard, and stays inside it."""

from __future__ import annotations

import os
import shutil
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format import index_io as index_store
from neurofm_shards.format.index_io import (
    build_index,
    load_index,
    read_index,
    save_index,
    shard_fingerprint,
)
from neurofm_shards.format.metadata_table import load_table
from neurofm_shards.format.sidecar import read_arrays, sidecar_paths, write_arrays
from neurofm_shards.types import Block, Ragged
from neurofm_shards.writing.shard_writer import ShardWriter


def write(path, seed=0, n=20):
    rng = np.random.default_rng(seed)
    ragged = Ragged(rng.random((3 * n, 2)), np.arange(n + 1) * 3 - np.r_[0, np.ones(n, int)])
    with ShardWriter(path, 0) as writer:
        writer.write_block(Block({"x": rng.random((n, 40)), "r": ragged}, [{"i": i} for i in range(n)]))
    return path


@pytest.fixture
def shard(tmp_path):
    return write(tmp_path / "s.tar")


def test_an_index_of_another_version_of_the_shard_is_made_anew(shard, tmp_path):
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "s.tar", seed=1)
    shutil.copy(other, shard)
    assert load_index(shard).checksum == load_index(other).checksum
    assert read_index(sidecar_paths(shard)[0], "s.tar", shard.stat().st_size, shard_fingerprint(shard))


def test_times_play_no_part(shard, monkeypatch):
    os.utime(shard, (1, 1))
    monkeypatch.setattr(index_store, "build_index", None)
    assert load_index(shard).num_samples == 20


@pytest.mark.parametrize("damage", [b"", b"NFMSIDE2", b"junk" * 100])
def test_a_damaged_index_is_made_anew(shard, damage):
    whole = load_index(shard).checksum
    sidecar_paths(shard)[0].write_bytes(damage)
    assert load_index(shard).checksum == whole
    assert sidecar_paths(shard)[0].read_bytes() != damage


def test_a_read_only_folder_s_index_goes_to_the_user_s_cache(shard, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.rmtree(shard.parent / ".neurofm")
    (shard.parent / ".neurofm").write_bytes(b"in the way, as a read-only folder would be")
    assert load_index(shard).num_samples == 20
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(shard, moved / "s.tar")
    monkeypatch.setattr(index_store, "build_index", None)
    assert load_index(moved / "s.tar").num_samples == 20
    assert len(list((tmp_path / "cache").rglob("*.idx"))) == 1


def test_a_shard_that_is_not_the_listed_one_is_said(shard):
    with pytest.raises(FormatError, match=r"20 samples .*expected 0{32}"):
        load_index(shard, "0" * 32)
    with pytest.raises(InputNotFoundError):
        load_index(shard.with_name("none.tar"))


def tamper(shard, change):
    header, arrays = read_arrays(sidecar_paths(shard)[0])
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(header, arrays)
    write_arrays(sidecar_paths(shard)[0], header, arrays)


def column(header, name):
    return next(c for c in header["columns"] if c[0][0] == name)


HOSTILE = {
    "payloads beyond the shard": lambda h, _: column(h, "x").__setitem__(3, [1 << 40, 512]),
    "payloads before it": lambda h, _: column(h, "x").__setitem__(3, [-5000, 512]),
    "negative sizes": lambda h, _: column(h, "x").__setitem__(4, [-1, 0]),
    "huge sizes": lambda h, _: column(h, "x").__setitem__(4, [1 << 50, 0]),
    "data beyond the shard": lambda h, _: column(h, "x").__setitem__(5, [1 << 30, 0]),
    "huge shape": lambda h, _: column(h, "x")[0].__setitem__(2, [1 << 40]),
    "overflowing shape": lambda h, _: column(h, "x")[0].__setitem__(2, [1 << 32, 1 << 32]),
    "object dtype": lambda h, _: column(h, "x")[0].__setitem__(1, "|O"),
    "structured dtype": lambda h, _: column(h, "x")[0].__setitem__(1, "f4,f4"),
    "longer ragged": lambda h, _: column(h, "r").__setitem__(6, [[1 << 40, 0], [2, 0]]),
    "negative ragged": lambda h, _: column(h, "r").__setitem__(6, [[-3, 0], [2, 0]]),
    "missing axis": lambda h, _: column(h, "r").__setitem__(6, [[3, 0]]),
    "records beyond": lambda h, _: h.__setitem__("records", [0, 1 << 40]),
    "records that fall": lambda h, _: h.__setitem__("records", [40_000, -512]),
    "number of samples": lambda h, _: h["shard"].__setitem__(3, 1 << 39),
    "tar larger than the file": lambda h, _: h["shard"].__setitem__(2, 1 << 40),
    "keys": lambda h, _: h.__setitem__("keys", ["s", 9, [-5, 1]]),
    "column twice": lambda h, _: h["columns"].append(h["columns"][0]),
    "version": lambda h, _: h.__setitem__("version", 2),
    "nonsense": lambda h, _: h.__setitem__("columns", [None]),
    "array of another length": lambda _, a: a.__setitem__("digests", a["digests"][:-1]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_index_under_a_right_checksum_is_refused(shard, name):
    whole = build_index(shard)
    tamper(shard, HOSTILE[name])
    with pytest.raises(FormatError):
        read_index(sidecar_paths(shard)[0], "s.tar", shard.stat().st_size, shard_fingerprint(shard))
    assert load_index(shard).columns["x"].data_offsets.tolist() == whole.columns["x"].data_offsets.tolist()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_an_index_says_nothing_leaves_the_shard(tmp_path_factory, data):
    shard = write(tmp_path_factory.mktemp("fuzz") / "s.tar", n=3)
    value = st.one_of(
        st.integers(-(1 << 62), 1 << 62), st.none(), st.text(max_size=3), st.lists(st.integers(-9, 1 << 40), max_size=3)
    )

    def change(header, arrays):
        target = data.draw(st.sampled_from(["x", "r", "metadata"]))
        column(header, target)[data.draw(st.integers(0, 6))] = data.draw(value)

    tamper(shard, change)
    try:
        index = read_index(sidecar_paths(shard)[0], "s.tar", shard.stat().st_size, shard_fingerprint(shard))
    except FormatError:
        return
    for found in index.columns.values():
        assert ((found.payload_offsets + found.payload_sizes) <= index.tar_bytes).all()
        assert (found.payload_offsets >= -1).all()
        if found.data_offsets is not None:
            shapes = found.shapes if found.shapes is not None else np.array([found.spec.shape] * 3).reshape(3, -1)
            sizes = shapes.prod(axis=1) * np.dtype(found.spec.dtype).itemsize
            assert (found.data_offsets + sizes <= index.tar_bytes).all()


def test_shards_of_webdataset_are_understood(tmp_path):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        with (
            webdataset.TarWriter(str(tmp_path / "w.tar.gz"), compress="gz") as sink,
            webdataset.TarWriter(str(tmp_path / "w.tar")) as plain,
        ):
            for i in range(7):
                sample = {"__key__": f"a/{i}", "x.npy": rng.random((3, 4)), "y.pyd": rng.random(5), "json": {"i": i}}
                if i % 2:
                    sample["txt"] = "hello"
                sink.write(sample)
                plain.write(sample)
    for name in ("w.tar", "w.tar.gz"):
        index = load_index(tmp_path / name)
        assert index.keys() == [f"a/{i}" for i in range(7)]
        assert set(index.columns) == {"x", "y", "txt", "metadata"}
        x = index.columns["x"]
        assert (x.spec.dtype, x.spec.shape, x.codec) == ("<f8", (3, 4), "npy")
        assert index.columns["txt"].codec == ""
        assert index.columns["txt"].payload_offsets[[0, 2]].tolist() == [-1, -1]
        assert load_table(tmp_path / name, index).values("i").tolist() == list(range(7))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_damaged_compressed_shards_are_format_errors(tmp_path, suffix):
    path = tmp_path / f"s.tar{suffix}"
    with ShardWriter(path, 0, compression=suffix[1:]) as writer:
        writer.write_block(Block({"x": np.random.default_rng(0).random((40, 500))}, [{}] * 40))
    raw = path.read_bytes()
    for damaged in (raw[: len(raw) // 2], raw[:1000] + b"\0" * 50 + raw[1050:], b"", b"no such format"):
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            build_index(path)


def test_a_thousand_indexes_open_in_a_fraction_of_a_second(tmp_path):
    index = None
    with ShardWriter(tmp_path / "s.tar", 0) as writer:
        writer.write_block(Block({"x": np.zeros((1000, 4)), "y": np.zeros((1000, 2))}, [{}] * 1000))
    index = load_index(tmp_path / "s.tar")
    save_index(index, tmp_path / "i")
    size, mark = index.shard_bytes, index.fingerprint
    start = time.process_time()
    for _ in range(1000):
        read_index(tmp_path / "i", "s.tar", size, mark)
        shard_fingerprint(tmp_path / "s.tar")
    assert time.process_time() - start < 5  # of processor time; 0.2 s on an idle machine
