"""Whole arrays: what the same call does a second time."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from neurofm_shards import WebDatasetLoader, WebDatasetWriter, create_shards_from_arrays
from neurofm_shards.errors import ConfigError
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.types import Ragged

ALREADY = "holds these 25 samples already, from an earlier call: nothing was added"


def arrays(seed=0):
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=(25, 3, 2)), "y": random.integers(0, 9, 25, dtype=np.uint8)}


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written_again(folder, data, shard_size=10, **options):
    """Write twice; return what the second call said and gave, and whether it changed any file."""
    create_shards_from_arrays(folder, data, shard_size, **options)
    before = bytes_of(folder)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        summary = create_shards_from_arrays(folder, data, shard_size, **options)
    return [str(each.message) for each in said], summary, bytes_of(folder) == before


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "gz"},
        {"codec": "npy", "workers": 1},
        {"metadata": {"subject": "M1", "trial": np.arange(25)}},
        {"metadata": [{"trial": i} for i in range(25)]},
        {"sample_ids": [f"trial {i}" for i in range(25)]},
    ],
)
def test_the_same_arrays_are_not_added_twice(tmp_path, options):
    said, summary, unchanged = written_again(tmp_path / "d", arrays(), **options)
    assert len(said) == 1
    assert ALREADY in said[0]
    assert "\n" not in said[0]
    assert summary["total_samples"] == 25
    assert unchanged


def test_other_forms_of_the_same_values_are_recognised(tmp_path):
    data = arrays()
    mapped = np.memmap(tmp_path / "x.bin", np.float64, "w+", shape=(25, 3, 2))
    mapped[:] = data["x"]
    create_shards_from_arrays(tmp_path / "d", data, 10)
    for y in (torch.from_numpy(data["y"]), data["y"].astype(np.uint16), data["y"].tolist()):
        with pytest.warns(UserWarning, match=ALREADY):
            create_shards_from_arrays(tmp_path / "d", {"x": mapped, "y": y}, 10)
    assert np.array_equal(mapped, data["x"])


@pytest.mark.parametrize(
    "data",
    [
        {"t": Ragged(np.arange(48.0), np.arange(25 + 1) * 2 - np.arange(25 + 1) // 9)},
        {"t": [{"n": i} for i in range(25)], "x": np.arange(25)},
    ],
)
def test_ragged_and_single_values_are_recognised(tmp_path, data):
    said, _, unchanged = written_again(tmp_path / "d", data)
    assert ALREADY in said[0]
    assert unchanged


def test_each_of_several_additions_is_recognised(tmp_path):
    for seed in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            create_shards_from_arrays(tmp_path, arrays(seed), 10)
    for seed in range(3):
        with pytest.warns(UserWarning, match=ALREADY):
            assert create_shards_from_arrays(tmp_path, arrays(seed), 10)["total_samples"] == 75


def changed(data, place):
    data["y"][place] += 1
    return data


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (arrays(1), {}),
        (changed(arrays(), 0), {}),
        (changed(arrays(), 24), {}),
        ({"x": arrays()["x"]}, {}),
        (arrays(), {"metadata": {"subject": "M2"}}),
        ({name: values[:12] for name, values in arrays().items()}, {}),
        ({name: values[10:] for name, values in arrays().items()}, {"metadata": {}, "sample_ids": range(15)}),
    ],
)
@pytest.mark.filterwarnings("ignore:samples differ in their fields")
def test_other_samples_are_added(tmp_path, data, options):
    create_shards_from_arrays(tmp_path, arrays(), 10)
    with pytest.warns(UserWarning, match="new samples are added to it"):
        summary = create_shards_from_arrays(tmp_path, data, 10, **options)
    assert summary["total_samples"] == 25 + len(data["x"])
    found = [sample["x"] for sample in WebDatasetLoader(tmp_path, shuffle=False)]
    assert np.array_equal(found, np.concatenate([arrays()["x"], data["x"]]))


def test_samples_of_which_some_were_dropped_are_added_again(tmp_path):
    create_shards_from_arrays(tmp_path, arrays(), 10)
    drop_samples(tmp_path, "sample_id == 'sample_000000012'")
    with pytest.warns(UserWarning, match="new samples are added to it"):
        assert create_shards_from_arrays(tmp_path, arrays(), 10)["total_samples"] == 49


def test_a_damaged_shard_is_not_taken_for_the_samples(tmp_path):
    create_shards_from_arrays(tmp_path, arrays(), 10)
    path = tmp_path / "shard_000000.tar"
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.warns(UserWarning, match="new samples are added to it"):
        create_shards_from_arrays(tmp_path, arrays(), 10)


def test_overwriting_writes_and_the_writer_goes_on_adding(tmp_path):
    data = arrays()
    for _ in range(2):
        assert create_shards_from_arrays(tmp_path, data, 10, overwrite=True)["total_samples"] == 25
    for total in (50, 75):
        with pytest.warns(UserWarning, match="new samples are added"):
            writer = WebDatasetWriter(tmp_path, 10)
        for i in range(25):
            writer.write_sample({name: values[i] for name, values in data.items()})
        assert writer.finalize()["total_samples"] == total


def test_errors_are_those_of_an_addition(tmp_path):
    create_shards_from_arrays(tmp_path, arrays(), 10, sample_ids=range(25))
    with pytest.warns(UserWarning, match="new samples"), pytest.raises(ConfigError, match="a second time"):
        create_shards_from_arrays(tmp_path, arrays(1), 10, sample_ids=range(25))
    assert len(list(WebDatasetLoader(tmp_path))) == 25
