"""Statistics of windows cut at load are those of the same windows stored.

Broken on purpose, each of these is caught here: windows of the test split that are counted, a session that is left out,
statistics that are kept under the options of other windows.
"""

from __future__ import annotations

import numpy as np
import pytest
from made_recordings import WINDOWS, session

from neurofm_shards import convert_inputs, create_webdataset_dataloader, open_windows, save_splits, split
from neurofm_shards.errors import ConfigError
from neurofm_shards.reading.collection import ShardCollection


def numbers(said):
    """Return counts, means and spreads of statistics as one array."""
    fields = ("count", "mean", "std", "min", "max", "nans")
    return np.array([[np.nan if v is None else v for v in said[name]] for name in fields], np.float64)


@pytest.fixture
def both(store, tmp_path):
    files, folder = store({"a": session(8), "b": session(2)}, piece_bytes=3_000)
    convert_inputs(files, tmp_path / "windows", {"windows": WINDOWS})
    return folder, tmp_path / "windows"


def test_they_are_those_of_windows_stored(both):
    folder, stored = both
    with open_windows(folder, WINDOWS) as windows, ShardCollection.open(stored) as shards:
        found, expected = windows.statistics(), shards.statistics()
    assert found["split"] == expected["split"] == "train"
    assert set(found["columns"]) == set(expected["columns"])
    assert found["sessions"].keys() == expected["sessions"].keys()
    for name, said in expected["sessions"].items():
        assert found["sessions"][name].keys() == said.keys()
        for column, values in said.items():
            np.testing.assert_allclose(numbers(found["sessions"][name][column]), numbers(values), rtol=1e-9)


def test_they_are_found_once_for_each_column_and_options(both, monkeypatch):
    folder, _ = both
    read = []
    with open_windows(folder, WINDOWS) as windows:
        gather = windows.gather
        monkeypatch.setattr(windows, "gather", lambda rows, names: read.append(names) or gather(rows, names))
        first = windows.statistics(["spikes"])
        assert {name for names in read for name in names} == {"spikes"}
        read.clear()
        assert windows.statistics(["spikes"]) == first
        assert not read
    with open_windows(folder, {**WINDOWS, "split": None}) as windows:
        other = windows.statistics(["spikes"])
    assert other["split"] is None
    assert other["sessions"] != first["sessions"]


@pytest.mark.plugins
def test_transforms_that_need_them_work_on_windows(both):
    folder, stored = both
    transforms = {"kind": "zscore", "fields": ["behavior"], "by": "session"}
    common = {
        "transforms": transforms,
        "columns": ["behavior"],
        "shuffle": False,
        "pin_memory": False,
        "ragged": "list",
    }
    ours = create_webdataset_dataloader(folder, 8, 0, windows=WINDOWS, **common)
    theirs = create_webdataset_dataloader(stored, 8, 0, **common)
    for a, b in zip(ours, theirs, strict=True):
        for one, other in zip(a["behavior"], b["behavior"], strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-6)


@pytest.mark.plugins
def test_transforms_that_need_none_make_none(both, monkeypatch):
    folder, _ = both
    monkeypatch.setattr("neurofm_shards.stored.windows.training_statistics", lambda *_: pytest.fail("made"))
    loader = create_webdataset_dataloader(
        folder, 8, 0, windows=WINDOWS, transforms={"kind": "crop", "fields": ["behavior"], "stop": 3}, pin_memory=False,
        columns=["behavior"], ragged="list",
    )  # fmt: skip
    assert len(next(iter(loader))["behavior"][0]) == 3


def test_splits_of_windows_are_part_of_their_options(both):
    folder, _ = both
    with open_windows(folder, {**WINDOWS, "split": None}) as windows:
        found = split(windows, by="session", fractions={"train": 0.5, "test": 0.5})
    with pytest.raises(ConfigError, match='windows={"split"'):
        save_splits(folder, found)
