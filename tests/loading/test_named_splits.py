"""Selections on written shards, the same way for every loader; splits that are kept with the data."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from neurofm_shards import (
    ShardDataset,
    WebDatasetLoader,
    WebDatasetWriter,
    create_shards_from_arrays,
    create_webdataset_dataloader,
    save_splits,
    split,
)
from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.maintenance.validate import validate_dataset

COUNT = 60


def write(folder, rows, *, named=False):
    with WebDatasetWriter(folder, shard_size=9) as writer:
        for row in rows:
            metadata = {"row": row, "session_id": f"s{row // 6}", "rate": row / 2, "choice": "lr"[row % 2]}
            metadata |= {"split": "train" if row < 40 else "test"} if named else {}
            writer.write_sample({"x": np.full(3, row, np.float32)}, sample_id=f"k{row:03d}", metadata=metadata)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "data", range(COUNT))
    return tmp_path / "data"


def by_dataloader(folder, **selection):
    loader = create_webdataset_dataloader(folder, 7, 0, **selection)
    return sorted(row["row"] for batch in loader for row in batch["metadata"])


def by_loader(folder, **selection):
    return sorted(sample["metadata"]["row"] for sample in WebDatasetLoader(folder, **selection))


def by_dataset(folder, **selection):
    data = ShardDataset(folder, **selection)
    return sorted(data[i]["metadata"]["row"] for i in range(len(data)))


every_loader = pytest.mark.parametrize("chosen", [by_dataloader, by_loader, by_dataset])


@every_loader
@pytest.mark.parametrize("sidecars", [True, False])
def test_every_loader_selects_alike_with_and_without_sidecars(folder, chosen, sidecars):
    if not sidecars:
        for meta in (folder / ".neurofm").glob("*.meta"):
            meta.unlink()
    assert chosen(folder, where='choice == "l" and rate >= 20') == list(range(40, COUNT, 2))
    assert chosen(folder, where=lambda columns: columns["rate"] < 3) == [0, 1, 2, 3, 4, 5]
    assert chosen(folder, keys=["k009", "k001", "k009"]) == [1, 9]
    assert chosen(folder, where="row > 4", keys=["k009", "k001"], columns=["x"]) == [9]
    assert chosen(folder, rows=[30, 2, 30], where="row > 4") == [30]


@every_loader
def test_saved_splits_are_found_by_name(folder, chosen):
    parts = split(folder, "session", {"train": 0.6, "val": 0.2, "test": 0.2})
    save_splits(folder, parts)
    for name, rows in parts.rows.items():
        assert chosen(folder, split=name) == rows.tolist()
    assert chosen(folder, split="val", where="row > 20") == [row for row in parts.rows["val"].tolist() if row > 20]
    with pytest.raises(ConfigError, match="no split 'dev'; the samples have: test, train, val"):
        chosen(folder, split="dev")


def test_saving_again_replaces_and_comes_before_what_metadata_says(tmp_path):
    write(tmp_path, range(COUNT), named=True)
    assert by_dataset(tmp_path, split="test") == list(range(40, COUNT))
    save_splits(tmp_path, {"test": [5, 3]})
    save_splits(tmp_path, {"train": range(10), "test": np.array([59, 11])})
    assert by_dataset(tmp_path, split="test") == [11, 59]
    assert by_dataset(tmp_path, split="train") == list(range(10))


@pytest.mark.filterwarnings("ignore:.*already holds a data set")
def test_appended_samples_are_in_no_split(folder):
    save_splits(folder, {"train": range(50), "test": range(50, COUNT)})
    write(folder, range(COUNT, COUNT + 20))
    assert by_dataset(folder, split="test") == list(range(50, COUNT))
    assert len(by_dataset(folder)) == COUNT + 20


def test_splits_of_other_data_are_refused(folder, tmp_path):
    write(tmp_path / "other", range(1, COUNT + 1))
    shutil.copy(save_splits(folder, {"train": [1]}), tmp_path / "other" / ".neurofm")
    with pytest.raises(FormatError, match="made for other samples than the folder has: save splits again"):
        ShardDataset(tmp_path / "other", split="train")


@pytest.mark.parametrize("kept", [0, 10, 100])
def test_a_torn_file_of_splits_is_an_error(folder, kept):
    path = save_splits(folder, {"train": [1]})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FormatError, match="splits"):
        ShardDataset(folder, split="train")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"a": [1, 2], "b": [2]}, "split 'b' shares 1 sample with another split"),
        ({"a": [60]}, "'a' has rows outside of the data set's 60"),
        ({"a": [-1]}, "'a' has rows outside"),
    ],
)
def test_impossible_splits_are_refused(folder, rows, says):
    with pytest.raises(ConfigError, match=says):
        save_splits(folder, rows)
    assert not (folder / ".neurofm" / "splits").exists()


def test_without_any_splits_the_way_to_make_them_is_named(folder):
    with pytest.raises(ConfigError, match="no splits are saved with the data.*save_splits"):
        ShardDataset(folder, split="train")


def test_a_copy_without_the_hidden_folder_does_not_pass_for_whole(folder, tmp_path):
    save_splits(folder, {"train": [0, 1, 2], "test": [5]})
    assert read_manifest(folder).splits == {"train": 3, "test": 1}
    assert validate_dataset(folder).ok
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".neurofm"))
    with pytest.raises(FormatError, match=r"the splits of .* \(train, test\) are gone.*hidden folder"):
        ShardDataset(copy, split="train")
    assert len(ShardDataset(copy)) == len(ShardDataset(folder))
    report = validate_dataset(copy)
    assert not report.ok
    assert "the saved splits train, test are not there" in str(report.findings)


def test_a_data_set_without_saved_splits_has_the_manifest_that_it_had(folder):
    before = (folder / "dataset_metadata.json").read_bytes()
    assert b'"splits"' not in before
    save_splits(folder, {"train": [0]})
    save_splits(folder, {})
    assert (folder / "dataset_metadata.json").read_bytes() == before


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ([0, 0, 1, 2], {"0": 2, "1": 1, "2": 1}),
        ([0, 1.0, None, float("nan")], {"0": 1, "1": 1}),
        ([True, False, True, None], {"True": 2, "False": 1}),
        (["a", "", "b", None], {"a": 1, "b": 1}),
    ],
)
def test_splits_that_metadata_name_by_numbers_are_found_as_text(tmp_path, said, counts):
    metadata = [{"session_id": f"s{i}", "split": name} for i, name in enumerate(said)]
    create_shards_from_arrays(tmp_path, {"x": np.arange(4)}, metadata=metadata)
    assert split(tmp_path).counts() == counts
    for name, count in counts.items():
        found = [int(sample["x"]) for sample in WebDatasetLoader(tmp_path, split=name, shuffle=False)]
        assert found == [i for i, each in enumerate(said) if each is not None and str(each).removesuffix(".0") == name]
        assert len(found) == count
