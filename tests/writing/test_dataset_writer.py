"""The public writers: what they take, what they leave, and what they never do."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards import ShardDataset, WebDatasetWriter, create_shards_from_arrays, create_webdataset_dataloader
from neurofm_shards.errors import ConfigError, EncodeError, FormatError, OutputExistsError
from neurofm_shards.format.keys import automatic_key
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.types import Ragged
from neurofm_shards.writing import writer_session
from neurofm_shards.writing.writer_session import KeyRegistry


def samples_in(folder):
    """Read everything with tarfile and pickle, in the order of the manifest."""
    found = {}
    manifest = json.loads((folder / "dataset_metadata.json").read_bytes())
    for shard in manifest["shards"]:
        with tarfile.open(folder / shard["shard_name"]) as tar:
            for member in tar:
                key, field, extension = member.name.split(".")
                payload = tar.extractfile(member).read()
                value = json.loads(payload) if extension == "json" else pickle.loads(payload)
                found.setdefault(key, {})[field] = value
    return found


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_samples_go_into_shards_of_the_size_asked_for(tmp_path):
    with WebDatasetWriter(tmp_path, shard_size=4) as writer:
        for i in range(10):
            assert writer.write_sample({"x": np.full(3, i)}, metadata={"i": i}) == f"sample_{i + 1:09d}"
    summary = writer.finalize()
    assert (summary["total_samples"], summary["total_shards"], summary["shard_size"]) == (10, 3, 4)
    assert writer.finalize() is summary
    found = samples_in(tmp_path)
    assert [sample["metadata"]["i"] for sample in found.values()] == list(range(10))
    last = found["sample_000000010"]["metadata"]
    assert last == {
        "sample_id": "sample_000000010",
        "modalities": ["x"],
        "shard_idx": 2,
        "sample_idx_in_shard": 1,
        "i": 9,
    }
    assert read_manifest(tmp_path).shards[1].samples[0] == found["sample_000000005"]["metadata"]


def test_any_text_is_an_id_and_stays_in_the_metadata(tmp_path):
    ids = ["ses.01", "ses-01", "ses_x2e01", "Möwe/3", 17, "__x", "x" * 300]
    with WebDatasetWriter(tmp_path) as writer:
        keys = writer.write_batch([{"x": 1}] * len(ids), sample_ids=ids)
    assert len(set(keys)) == len(ids)
    found = samples_in(tmp_path)
    assert [found[key]["metadata"]["sample_id"] for key in keys] == [str(i) for i in ids]


def test_an_id_is_used_once_in_a_whole_data_set(tmp_path):
    with WebDatasetWriter(tmp_path, shard_size=1) as writer:
        writer.write_sample({"x": 1}, "a")
        writer.write_sample({"x": 1})
        for twice in ("a", "sample_000000002"):
            with pytest.raises(ConfigError, match="second time"):
                writer.write_sample({"x": 1}, twice)
        writer.write_sample({"x": 1}, "sample_000000004")
        with pytest.raises(ConfigError, match="by name"):
            writer.write_sample({"x": 1})
    with pytest.warns(UserWarning, match="already holds"):
        writer = WebDatasetWriter(tmp_path)
    with pytest.raises(ConfigError, match="second time"):
        writer.write_sample({"x": 1}, "a")
    writer.write_sample({"x": 1}, "b")
    assert writer.finalize()["total_samples"] == 4


@given(st.lists(st.one_of(st.none(), st.integers(1, 12)), max_size=12))
def test_the_registry_is_right_about_repetitions(sequence):
    keys, seen = KeyRegistry(list, 1), set()
    for number in sequence:
        key = automatic_key(keys.next_number if number is None else number)
        try:
            if number is None:
                keys.take_automatic(1)
            else:
                keys.take_named([key])
        except ConfigError:
            assert key in seen
        else:
            assert key not in seen
            seen.add(key)


def test_an_exception_leaves_the_folder_as_it_was(tmp_path):
    def fail(target):
        with pytest.raises(EncodeError), WebDatasetWriter(target, shard_size=2) as writer:
            writer.write_batch([{"x": np.zeros(3)}] * 5 + [{"x": object()}])

    fail(tmp_path / "new")
    assert tree(tmp_path / "new") == {}
    create_shards_from_arrays(tmp_path / "old", {"x": np.zeros((3, 3))})
    before = tree(tmp_path / "old")
    with pytest.warns(UserWarning, match="already holds"):
        fail(tmp_path / "old")
    assert tree(tmp_path / "old") == before


def test_a_finished_data_set_is_added_to(tmp_path):
    create_shards_from_arrays(tmp_path, {"x": np.zeros((5, 2))}, shard_size=3)
    before = tree(tmp_path)
    with pytest.warns(UserWarning, match="of 5 samples"):
        summary = create_shards_from_arrays(tmp_path, {"x": np.ones((2, 2))}, shard_size=3)
    assert (summary["total_samples"], summary["total_shards"]) == (7, 3)
    assert list(samples_in(tmp_path)) == [f"sample_{i:09d}" for i in range(1, 8)]
    after = tree(tmp_path)
    assert all(after[name] == content for name, content in before.items() if name.startswith((".neurofm", "shard")))
    with pytest.raises(ConfigError, match="compression"):
        create_shards_from_arrays(tmp_path, {"x": np.ones((2, 2))}, compression="gz")


def test_overwriting_deletes_what_is_ours_and_nothing_else(tmp_path):
    create_shards_from_arrays(tmp_path, {"x": np.zeros((5, 2))}, shard_size=1)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "shard_000099.tar").write_bytes(b"somebody's")
    create_shards_from_arrays(tmp_path, {"y": np.zeros((2, 2))}, shard_size=1, overwrite=True)
    names = set(tree(tmp_path))
    assert {"notes.txt", "shard_000099.tar", "shard_000000.tar", "shard_000001.tar"} <= names
    assert "shard_000002.tar" not in names
    assert list(samples_in(tmp_path)["sample_000000001"]) == ["y", "metadata"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_shards_of_others_are_never_replaced(tmp_path, overwrite):
    (tmp_path / "shard_000000.tar").write_bytes(b"somebody's")
    with pytest.raises(OutputExistsError):
        WebDatasetWriter(tmp_path, overwrite=overwrite)
    assert tree(tmp_path) == {"shard_000000.tar": b"somebody's"}


def test_a_killed_writer_leaves_an_unfinished_data_set_that_can_be_replaced(tmp_path):
    code = (
        "import os, sys, numpy as np; from neurofm_shards import WebDatasetWriter\n"
        "w = WebDatasetWriter(sys.argv[1], shard_size=2)\n"
        "for i in range(5): w.write_sample({'x': np.zeros(10_000)})\n"
        "os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 9
    assert (tmp_path / ".neurofm" / "unfinished").exists()
    assert read_manifest(tmp_path) is None
    with pytest.raises(OutputExistsError, match="interrupted"):
        WebDatasetWriter(tmp_path)
    with WebDatasetWriter(tmp_path, overwrite=True) as writer:
        writer.write_sample({"x": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".neurofm",
        "README.md",
        "croissant.json",
        "dataset_metadata.json",
        "shard_000000.tar",
    ]
    assert not list(tmp_path.rglob("*.partial"))


def test_fields_that_differ_and_upper_case_are_said_once(tmp_path):
    with WebDatasetWriter(tmp_path) as writer:
        with pytest.warns(UserWarning, match="upper-case") as first:
            writer.write_sample({"X": 1})
        with pytest.warns(UserWarning, match="differ") as second:
            writer.write_sample({"X": 1, "y": [2]})
        writer.write_sample({"y": [3]})
    assert (len(first), len(second)) == (1, 1)
    assert [set(sample) - {"metadata"} for sample in samples_in(tmp_path).values()] == [{"X"}, {"X", "y"}, {"y"}]
    columns = {column.name: column for column in read_manifest(tmp_path).columns}
    assert (columns["X"].num_samples, columns["y"].num_samples, columns["y"].optional) == (2, 2, True)


def test_a_codec_for_a_field_that_no_sample_has_is_told(tmp_path):
    with (
        pytest.warns(UserWarning, match=r"codecs: there is no field 'yy'.*there are: x, y"),
        WebDatasetWriter(tmp_path, codecs={"x": "npy", "yy": "npy"}) as writer,
    ):
        writer.write_sample({"x": np.zeros(3), "y": np.ones(2)})


def test_a_value_that_nothing_takes_is_named(tmp_path):
    with WebDatasetWriter(tmp_path) as writer:
        with pytest.raises(EncodeError, match=r"'thing'.*register_codec"):
            writer.write_sample({"thing": object()})
        assert writer.write_sample({"thing": 1}) == "sample_000000001"


@pytest.mark.parametrize(
    "options",
    [{"shard_size": 0}, {"shard_size": 2.5}, {"shard_name_pattern": "s.tar"},
     {"shard_name_pattern": "../s_{shard_idx}.tar"},
     {"shard_name_pattern": "s_{other}.tar"}, {"shard_name_pattern": "s_{shard_idx}.zip"}],
)  # fmt: skip
def test_wrong_options_are_refused_before_anything_is_made(tmp_path, options):
    with pytest.raises(ConfigError):
        WebDatasetWriter(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_batches_of_columns_and_of_samples_are_the_same(tmp_path):
    data = {"x": np.arange(12.0).reshape(4, 3), "y": np.arange(4)}
    with WebDatasetWriter(tmp_path / "a") as writer:
        writer.write_batch(data, metadata={"s": 1})
    with WebDatasetWriter(tmp_path / "b") as writer:
        rows = [{"x": data["x"][i], "y": data["y"][i]} for i in range(4)]
        writer.write_batch(rows, metadata=[{"s": 1}] * 4, show_progress=False)
    create_shards_from_arrays(tmp_path / "c", data, metadata={"s": 1})
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")
    with pytest.raises(ConfigError, match="3 entries for 4"), WebDatasetWriter(tmp_path / "d") as writer:
        writer.write_batch(data, sample_ids=["a", "b", "c"])


def test_arrays_of_different_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"same first dimension.*'x' has 3, 'y' has 4"):
        create_shards_from_arrays(tmp_path / "out", {"x": np.zeros((3, 2)), "y": np.zeros(4)})
    assert not (tmp_path / "out").exists()


def test_arrays_maps_tensors_ragged_and_lists(tmp_path):
    torch = pytest.importorskip("torch")
    np.save(tmp_path / "m.npy", np.arange(35.0).reshape(7, 5))
    data = {
        "mapped": np.load(tmp_path / "m.npy", mmap_mode="r"),
        "tensor": torch.arange(14).reshape(7, 2),
        "ragged": Ragged(np.arange(20), np.array([0, 1, 3, 3, 9, 10, 15, 20])),
        "words": [f"w{i}" for i in range(7)],
        "uneven": [np.zeros(i) for i in range(7)],
    }
    create_shards_from_arrays(
        tmp_path / "out", data, shard_size=3, metadata={"rate": np.arange(7) / 2, "s": "M1", "l": [1, 2]}
    )
    found = list(samples_in(tmp_path / "out").values())
    for i, sample in enumerate(found):
        np.testing.assert_array_equal(sample["mapped"], np.arange(35.0).reshape(7, 5)[i])
        np.testing.assert_array_equal(sample["tensor"], [2 * i, 2 * i + 1])
        np.testing.assert_array_equal(sample["ragged"], data["ragged"][i])
        assert sample["words"] == f"w{i}"
        assert sample["uneven"].shape == (i,)
        assert (sample["metadata"]["rate"], sample["metadata"]["s"], sample["metadata"]["l"]) == (i / 2, "M1", [1, 2])
    assert [c.shape for c in read_manifest(tmp_path / "out").columns if c.name in ("ragged", "uneven")] == [
        [None],
        [None],
    ]


def test_the_number_of_threads_changes_no_byte(tmp_path):
    data = {"x": np.random.default_rng(0).random((103, 400)), "y": np.arange(103)}
    for workers in (1, 4):
        create_shards_from_arrays(tmp_path / str(workers), data, shard_size=10, compression="gz", workers=workers)
    assert tree(tmp_path / "1") == tree(tmp_path / "4")


@pytest.mark.parametrize("name", ["workers", "shard_size"])
@pytest.mark.parametrize("value", [0, -1, "4", 2.0, True])
def test_counts_that_are_no_counts_are_refused(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"{name}={value!r}: a (whole )?number of .* is needed, 1 or more"):
        create_shards_from_arrays(tmp_path / "out", {"x": np.zeros((3, 2))}, **{name: value})
    assert not (tmp_path / "out").exists()


def test_nothing_written_knows_where_or_when(tmp_path):
    (tmp_path / "somewhere" / "else").mkdir(parents=True)
    for folder in (tmp_path / "a", tmp_path / "somewhere" / "else" / "b"):
        create_shards_from_arrays(folder, {"x": np.zeros((3, 2))}, sample_ids=["p", "q", "r"])
        assert not any(str(tmp_path).encode() in content for content in tree(folder).values())
    assert tree(tmp_path / "a") == tree(tmp_path / "somewhere" / "else" / "b")


def test_mapped_inputs_do_not_stay_in_memory(tmp_path):
    mapped = np.memmap(tmp_path / "big", np.uint8, "w+", shape=(3000, 200_000))
    del mapped
    code = (
        "import resource, sys, numpy as np; from neurofm_shards import create_shards_from_arrays\n"
        "create_shards_from_arrays(sys.argv[1] + '/warm', {'x': np.zeros((4, 9), 'u1')})\n"
        "x = np.memmap(sys.argv[1] + '/big', np.uint8, 'r', shape=(3000, 200_000))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "create_shards_from_arrays(sys.argv[1] + '/out', {'x': x}, shard_size=1000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000, f"{done.stdout} KiB for 600 MB of input"


def test_a_progress_bar_is_for_terminals_only(tmp_path, capsys, monkeypatch):
    made = Mock(side_effect=writer_session.Progress)
    monkeypatch.setattr(writer_session, "Progress", made)
    with WebDatasetWriter(tmp_path / "a") as writer:
        writer.write_batch([{"x": 1}] * 3)
    assert capsys.readouterr() == ("", "")
    assert not made.called  # to make one costs as much as to write a sample
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with WebDatasetWriter(tmp_path / "b") as writer:
        writer.write_batch([{"x": 1}] * 3)
    assert "writing samples" in capsys.readouterr().err


def test_an_unfinished_data_set_is_not_taken_for_a_whole_one(tmp_path):
    from neurofm_shards.reading.collection import ShardCollection

    writer = WebDatasetWriter(tmp_path, shard_size=1)
    writer.write_batch([{"x": np.zeros(2)}] * 3)
    with pytest.raises(FormatError, match="interrupted"):
        ShardCollection.open(tmp_path)
    writer.finalize()
    assert ShardCollection.open(tmp_path).num_samples == 3


@pytest.mark.parametrize("count", [1, 8])
def test_a_member_name_that_is_too_long_is_shown_as_it_would_be(tmp_path, count):
    with pytest.raises(ConfigError, match=r"'sample_000000001\.f{95}\.pyd' has 116 bytes and 100 fit"):
        create_shards_from_arrays(tmp_path, {"f" * 95: np.zeros((count, 3))}, shard_size=8)


class Subclass(np.ndarray):
    """An array of another class, as memory maps are."""


def one_by_one(folder, values, **options):
    with WebDatasetWriter(folder, **options) as writer:
        for value in values:
            writer.write_sample({"y": np.zeros(2, np.float32), "x": value})


def at_once(folder, values, **options):
    create_shards_from_arrays(folder, {"y": np.zeros((len(values), 2), np.float32), "x": values}, **options)


both_ways = pytest.mark.parametrize("write", [one_by_one, at_once])


def written(folder, values, shard_size, codec="npy", write=one_by_one):
    write(folder, values, shard_size=shard_size, codec=codec)
    manifest = json.loads((folder / "dataset_metadata.json").read_text())
    return {column["name"]: column for column in manifest["columns"]}


def batches(folder):
    loader = create_webdataset_dataloader(folder, batch_size=3, num_workers=0, shuffle=False)
    return list(loader)


@both_ways
@pytest.mark.parametrize("shard_size", [3, 8])
@pytest.mark.parametrize("codec", ["npy", "pyd"])
@pytest.mark.parametrize(
    "values",
    [
        [*map(np.int64, range(7)), 7],
        [*range(7), np.int64(7)],
        [0.5, 1, np.float32(2.0), 3.25],
        [np.float32(0.5), 1, np.float64(2.0), np.int16(3)],
        [np.arange(2, dtype=np.int64), np.arange(2, dtype=np.int32), np.arange(2, dtype=">i8")],
        [True, np.bool_(False), True],
        [torch.arange(2), torch.arange(2, dtype=torch.int32), np.arange(2).view(Subclass)],
        [np.arange(2).view(Subclass), np.arange(2, dtype=np.int8).view(Subclass), torch.arange(2)],
    ],
)
def test_numbers_of_one_kind_are_one_column_of_one_type(tmp_path, values, shard_size, codec, write):
    columns = written(tmp_path / "out", values, shard_size, codec, write)
    assert set(columns) == {"y", "x"}
    assert not columns["x"].get("optional")
    found = [batch["x"] for batch in batches(tmp_path / "out")]
    assert len({tensor.dtype for tensor in found}) == 1
    assert np.array_equal(torch.cat(found).numpy(), np.array([np.asarray(value) for value in values]))


@pytest.mark.parametrize("value", [0.5, np.ones(2)], ids=["number", "array"])
def test_a_sample_whose_only_field_is_a_gap_is_refused(tmp_path, value):
    with WebDatasetWriter(tmp_path / "out") as writer:
        writer.write_sample({"x": value})
        with pytest.raises(EncodeError, match="'x', its only field, is None, a gap among numbers: leave"):
            writer.write_sample({"x": None}, metadata={"trial": 1})
        writer.write_sample({"x": value})
    (batch,) = batches(tmp_path / "out")
    assert batch["x"].shape[0] == 2
    assert set(batch) == {"x", "metadata"}


@both_ways
def test_none_before_any_number_is_a_gap_too(tmp_path, write):
    columns = written(tmp_path / "out", [None, np.float32(0.5), 2], 10, write=write)
    assert (columns["x"]["dtype"], columns["x"]["optional"]) == ("<f4", True)
    (batch,) = batches(tmp_path / "out")
    assert (batch["x"].tolist(), batch["x_valid"].tolist()) == ([0.0, 0.5, 2.0], [False, True, True])


@both_ways
@pytest.mark.parametrize("shard_size", [3, 100])
@pytest.mark.parametrize("first", [0.5, np.float32(0.5), np.ones(2), 7])
def test_none_among_numbers_is_a_gap_that_a_column_tells(tmp_path, first, shard_size, write):
    values = [first, first, first, first, None, first, None, first]
    columns = written(tmp_path / "out", values, shard_size, write=write)
    assert set(columns) == {"y", "x"}
    assert columns["x"]["optional"]
    found = batches(tmp_path / "out")
    assert torch.cat([batch["x_valid"] for batch in found]).tolist() == [value is not None for value in values]
    wanted = np.array([np.zeros_like(first) if value is None else value for value in values])
    known = [batch["x"] for batch in found if bool(batch["x_valid"].any())]
    assert len({tensor.dtype for tensor in known}) == 1
    assert np.array_equal(torch.cat(known).numpy(), wanted[: len(torch.cat(known))])


@pytest.mark.parametrize(
    ("before", "value"),
    [(1, 0.5), (np.int64(1), 0.5), (np.float32(1), np.float64(0.1)), (True, 2), ("text", 3), (np.zeros(2), "text"),
     (np.uint8(1), 300), (np.int32(1), np.arange(2) + 0.5), (np.uint64(1), -1), (np.int64(1), np.uint64(2**63)),
     (np.zeros(2, np.float32), torch.full((2,), 0.1, dtype=torch.float64)),
     (torch.zeros(2), torch.full((2,), 0.1, dtype=torch.float64)), (torch.zeros(2), np.full(2, 0.1)),
     (np.zeros(2, np.float32).view(Subclass), np.full(2, 0.1).view(Subclass))],
)  # fmt: skip
def test_what_would_change_is_refused_with_the_sample_named(tmp_path, before, value):
    with WebDatasetWriter(tmp_path / "out") as writer:
        writer.write_sample({"x": before}, sample_id="first")
        with pytest.raises(EncodeError, match=r"sample 'odd': field 'x' is .* samples before it hold"):
            writer.write_sample({"x": value}, sample_id="odd")
        writer.write_sample({"x": before}, sample_id="odd")
    with pytest.raises(EncodeError, match=r"sample 'odd': field 'x' is .* samples before it hold"):
        create_shards_from_arrays(tmp_path / "arrays", {"x": [before, value]}, 1, sample_ids=["first", "odd"])
    assert not list((tmp_path / "arrays").glob("*"))


@pytest.mark.filterwarnings("ignore:.*already holds a data set")
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_arrays_are_added_with_the_type_that_is_there(tmp_path, mapped, ragged):
    def data(values):
        array = np.array(values)
        if mapped:
            np.save(tmp_path / "x.npy", array)
            array = np.load(tmp_path / "x.npy", mmap_mode="r")
        return Ragged(array, np.array([0, 1, 3])) if ragged else array

    create_shards_from_arrays(tmp_path / "out", {"x": data([1.5, 2.5, 3.5])}, 1)
    create_shards_from_arrays(tmp_path / "out", {"x": data(np.array([1, 2, 3], np.float32))}, 1)
    for odd, name in (([2**53 + 1] * 3, "int64"), ([True] * 3, "bool"), ([1j] * 3, "complex128"), (["a"] * 3, "<U1")):
        after = tree(tmp_path / "out")
        with pytest.raises(EncodeError, match=rf"sample {5 if ragged else 7}: field 'x' is {name}"):
            create_shards_from_arrays(tmp_path / "out", {"x": data(odd)}, 1)
        assert tree(tmp_path / "out") == after
    manifest = json.loads((tmp_path / "out" / "dataset_metadata.json").read_bytes())
    assert [column["dtype"] for column in manifest["columns"]] == ["<f8"]


@both_ways
@pytest.mark.filterwarnings("ignore:.*already holds a data set")
@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.parametrize(
    ("before", "added", "dtype"),
    [
        ([1, 2], [np.int64(3), 4.0, None], torch.int64),
        ([None, 0.5], [1, np.float32(2), np.array(3)], torch.float64),
        ([0.5], np.arange(3.0), torch.float64),
        ([True], [np.bool_(False)], torch.bool),
    ],
)
def test_numbers_that_are_added_to_fields_of_json_become_their_numbers(
    tmp_path, before, added, dtype, compression, write
):
    at_once(tmp_path, before, compression=compression)
    write(tmp_path, added, compression=compression)
    manifest = json.loads((tmp_path / "dataset_metadata.json").read_bytes())
    assert [column["codec"] for column in manifest["columns"] if column["name"] == "x"] == ["json"]
    found = [batch["x"] for batch in batches(tmp_path)]
    assert {tensor.dtype for tensor in found} == {dtype}
    wanted = [0 if value is None else value for value in [*before, *added]]
    assert torch.cat(found).tolist() == wanted


@both_ways
@pytest.mark.filterwarnings("ignore:.*already holds a data set")
@pytest.mark.parametrize(
    ("before", "value"), [(1, 0.5), (1, True), ("a", 1.5), ([1, 2], np.ones(2)), (0.5, np.ones(2)), (1, "a")]
)
def test_what_would_change_a_field_of_json_is_refused(tmp_path, before, value, write):
    one_by_one(tmp_path, [before])
    with pytest.raises(EncodeError, match="sample 2: field 'x' is .* samples before it hold"):
        write(tmp_path, [value])


@pytest.mark.parametrize(
    "value", [b"x", 1j, torch.ones(2, dtype=torch.bfloat16), np.ma.ones(2), 2**64, np.nan, np.array(["a"]), object()]
)
def test_what_cannot_be_stored_is_told_with_its_sample(tmp_path, value):
    with (
        WebDatasetWriter(tmp_path / "out") as writer,
        pytest.raises(EncodeError, match=r"^sample 'the odd one': field 'x': "),
    ):
        writer.write_sample({"x": value}, sample_id="the odd one")


@pytest.mark.parametrize("value", [2**63, 2**64 - 1])
def test_integers_that_batches_cannot_hold_share_no_field_with_those_they_can(tmp_path, value):
    for before in ([1], [None, 1]):
        with WebDatasetWriter(tmp_path / str(before)) as writer:
            for known in before:
                writer.write_sample({"x": known, "y": 0})
            with pytest.raises(EncodeError, match=r"^sample 'odd': field 'x' is .*, beyond the int64.*numpy.uint64"):
                writer.write_sample({"x": value, "y": 0}, sample_id="odd")
            writer.write_sample({"x": 2**63 - 1, "y": 0})
            writer.write_sample({"x": -(2**63), "y": 0})
    large = [value, None, 2**63 + 1, 2**64 - 1]
    with WebDatasetWriter(tmp_path / "large") as writer:
        for x in large:
            writer.write_sample({"x": x, "y": 0})
        with pytest.raises(EncodeError, match="field 'x' is int, and the samples before it hold no numbers of 64 bits"):
            writer.write_sample({"x": 1, "y": 0})
    (batch,) = create_webdataset_dataloader(tmp_path / "large", 4, 0, shuffle=False)
    assert batch["x"] == large


@both_ways
def test_texts_of_numpy_are_texts(tmp_path, write):
    texts = list(np.array(["left", "right"]))
    assert set(written(tmp_path / "out", [texts[0], "middle", None, texts[1]], 2, write=write)) == {"x", "y"}
    assert [sample["x"] for sample in ShardDataset(tmp_path / "out")] == ["left", "middle", None, "right"]


def test_a_masked_array_is_refused_with_advice(tmp_path):
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    with pytest.raises(EncodeError, match=r"masked array: fill it \(array.filled"):
        create_shards_from_arrays(tmp_path / "arrays", {"x": masked})
    with WebDatasetWriter(tmp_path / "out") as writer:
        for _ in range(2):
            with pytest.raises(EncodeError, match=r"masked array: fill it \(array.filled"):
                writer.write_sample({"x": masked})
        writer.write_sample({"x": masked.filled(0)})


@pytest.mark.filterwarnings("ignore:.*already holds a data set")
def test_adding_float64_to_float32_converts_what_stays_equal_and_refuses_the_rest(tmp_path):
    written(tmp_path / "out", [np.float32(1.5)], 10)
    with WebDatasetWriter(tmp_path / "out") as writer:
        writer.write_sample({"y": np.zeros(2), "x": np.float64(2.5)})
        with pytest.raises(EncodeError, match="is float64, and the samples before it hold float32"):
            writer.write_sample({"y": np.zeros(2), "x": np.float64(0.1)})
    (batch,) = batches(tmp_path / "out")
    assert (batch["x"].dtype, batch["x"].tolist()) == (torch.float32, [1.5, 2.5])


def test_a_sample_that_was_not_written_decides_nothing(tmp_path):
    with WebDatasetWriter(tmp_path / "out") as writer:
        with pytest.raises(EncodeError):
            writer.write_sample({"x": 1, "y": object()})
        writer.write_sample({"x": "text"})


@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_times_and_spans_of_samples_are_those_of_one_sample(tmp_path, unit):
    time = np.array(["2026-01-02", "NaT"], f"M8[{unit}]")
    span = np.array([3_000_000_000, "NaT"], "m8[ns]").astype(f"m8[{unit}]")
    create_shards_from_arrays(tmp_path, {"x": np.arange(2)}, metadata={"time": time, "span": span})
    with tarfile.open(tmp_path / "shard_000000.tar") as tar:
        found = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith("metadata.json")]
    assert [(each["time"], each["span"]) for each in found] == [("2026-01-02T00:00:00", 3.0), (None, None)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"x": [1, {"y": {3}}]}, r"'m'\['x'\]\[1\]\['y'\] is of type set"),
        ([{1: 2}], r"'m'\[0\] has a name that is not a string, 1"),
        (2**64, r"'m' is of type int.*64-bit"),
    ],
)
def test_what_metadata_cannot_hold_is_found_inside(tmp_path, value, said):
    match = rf"sample 'sample_000000001': metadata {said}"
    with WebDatasetWriter(tmp_path) as writer, pytest.raises(EncodeError, match=match):
        writer.write_sample({"x": 1}, metadata={"m": value})


def test_metadata_that_is_too_deep_is_refused(tmp_path):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with WebDatasetWriter(tmp_path) as writer, pytest.raises(EncodeError, match="sample 'sample_000000001'"):
        writer.write_sample({"x": 1}, metadata={"m": deep})


@both_ways
def test_metadata_take_times_spans_paths_and_numpy_scalars(tmp_path, write):
    pandas = pytest.importorskip("pandas")
    said = {
        "date": (dt.date(2026, 1, 2), "2026-01-02"),
        "time": (dt.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),  # noqa: DTZ001  (a time without a zone is what is tested)
        "zoned": (dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc), "2026-01-02T00:00:00+00:00"),
        "stamp": (pandas.Timestamp("2026-01-02 03:04"), "2026-01-02T03:04:00"),
        "numpy_time": (np.datetime64("2026-01-02T03:04:05"), "2026-01-02T03:04:05"),
        "span": (dt.timedelta(milliseconds=1500), 1.5),
        "pandas_span": (pandas.Timedelta("1500ms"), 1.5),
        "numpy_span": (np.timedelta64(1500, "ms"), 1.5),
        "path": (Path("a/b.nwb"), "a/b.nwb"),
        "number": (np.int16(3), 3),
        "no_time": (pandas.NaT, None),
        "no_numpy_time": (np.datetime64("NaT", "ns"), None),
        "no_span": (np.timedelta64("NaT", "s"), None),
        "nothing": (pandas.NA, None),
        "times": (np.array(["2026-01-02", "NaT"], "M8[ns]"), ["2026-01-02T00:00:00", None]),
        "time_in_array": (np.array("NaT", "M8[ns]"), None),
        "inside": ({"a": [pandas.NaT, np.datetime64("NaT", "ns")]}, {"a": [None, None]}),
        "inside_tuple": ((np.datetime64("NaT", "us"), {"b": np.datetime64("NaT")}), [None, {"b": None}]),
        "inside_objects": (np.array([np.datetime64("NaT", "ns"), 1], object), [None, 1]),
        "nanoseconds": (np.datetime64(1, "ns"), "1970-01-01T00:00:00.000000001"),
        "some_nanoseconds": (np.array([1], "M8[ns]"), ["1970-01-01T00:00:00.000000001"]),
    }
    given = {name: value for name, (value, _) in said.items()}
    if write is one_by_one:
        with WebDatasetWriter(tmp_path / "out") as writer:
            writer.write_sample({"x": 1}, metadata=given)
    else:
        create_shards_from_arrays(tmp_path / "out", {"x": np.arange(2)}, metadata=[given] * 2)
    with tarfile.open(tmp_path / "out" / "shard_000000.tar") as tar:
        member = next(member for member in tar if member.name.endswith("metadata.json"))
        found = json.load(tar.extractfile(member))
    assert {name: found[name] for name in said} == {name: text for name, (_, text) in said.items()}


def test_a_complex_number_never_joins_a_real_field(tmp_path):
    with WebDatasetWriter(tmp_path) as writer:
        writer.write_sample({"x": np.zeros(3)})
        with pytest.raises(EncodeError, match="complex128"):
            writer.write_sample({"x": np.zeros(3, complex)})


def test_counts_given_as_fractions_become_the_integers_of_the_data_set_that_they_are_added_to(tmp_path):
    with WebDatasetWriter(tmp_path, codec="npy") as writer:
        writer.write_sample({"x": np.array([1, 2], np.uint8)})
    with pytest.warns(UserWarning, match="added"):
        added = WebDatasetWriter(tmp_path, codec="npy")
    with added as writer:
        writer.write_sample({"x": np.array([3.0, 255.0])})
        for lost in ([0.5, 1], [256.0, 1], [-1.0, 1]):
            with pytest.raises(EncodeError, match="float64, and the samples before it hold uint8"):
                writer.write_sample({"x": np.array(lost)})
    (batch,) = batches(tmp_path)
    assert batch["x"].tolist() == [[1, 2], [3, 255]]
