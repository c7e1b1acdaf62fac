"""Samples of several data sets: units of one joint table, the name of each data set, and bins that are alike."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import ShardDataset, create_shards_from_arrays, create_webdataset_dataloader, mix
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.plans.mixing import mix_groups
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.plugins.registry import register_source
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events
from neurofm_shards.stored.windows import open_windows


class Units(Source):
    """A file ``NAME.units`` has as many units as its text says, called ``NAME0``, ``NAME1``, ..."""

    def open(self, paths):
        path = Path(paths[0])
        rng = np.random.default_rng(len(path.stem))
        trains = {f"{path.stem}{i}": np.sort(rng.uniform(0, 12, 300)) for i in range(int(path.read_text()))}
        names = {"session_id": path.stem, "subject_id": "m", "source_file": path.name, "fingerprint": path.stem}
        return InMemoryRecording([events("units", trains)], **names)


@pytest.fixture
def make(tmp_path):
    register_source(SourceEntry(name="units", summary="sessions", factory=Units, suffixes=(".units",)))

    def made(name, counts, **config):
        for session, count in counts.items():
            (tmp_path / f"{session}.units").write_text(str(count))
        folder = tmp_path / name
        config.setdefault("windows", {"overlap": 0.0})
        convert_inputs([tmp_path / f"{session}.units" for session in counts], folder, config)
        return folder

    return made


def loader_of(mixture, **options):
    options = {"num_workers": 0, "pin_memory": False, "ragged": "list", **options}
    return create_webdataset_dataloader(mixture, 5, **options)


def assert_units_are_their_own(samples, table):
    """See that the ids of every sample's units, looked up in the table, are named after its session."""
    seen = set()
    for units, said in samples:
        names = [table[int(row)]["unit"] for row in units]
        assert {name.rstrip("0123456789") for name in names} == {said["session_id"]}
        assert names == [f"{said['session_id']}{i}" for i in range(len(names))]
        seen.add((said["dataset"], said["session_id"]))
    return seen


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}, {"num_workers": 1, "worker_type": "process"}])
def test_units_are_rows_of_one_table_and_samples_name_their_data_set(make, workers):
    one, two = make("one", {"a": 3, "b": 2}), make("two", {"c": 4})
    loader = loader_of(mix([one, two]), **workers)
    samples = [pair for batch in loader for pair in zip(batch["unit_ids"], batch["metadata"], strict=True)]
    table = loader.dataset.table("units")
    assert len(table) == 9
    assert assert_units_are_their_own(samples, table) == {("one", "a"), ("one", "b"), ("two", "c")}
    drawn = [loader.dataset[i] for i in range(len(loader.dataset))]
    assert len(drawn) == len(samples)
    assert len(assert_units_are_their_own([(s["unit_ids"], s["metadata"]) for s in drawn], table)) == 3
    with pytest.raises(ConfigError, match="there are: units"):
        loader.dataset.table("unit")


def test_a_data_set_alone_stays_as_it_is(make):
    one, two = make("one", {"a": 3}), make("two", {"c": 4})
    list(loader_of(mix([one, two])))
    data = ShardDataset(two)
    assert data[0]["unit_ids"].tolist() == [0, 1, 2, 3]
    assert "dataset" not in data[0]["metadata"]
    assert "dataset" not in next(iter(loader_of(mix_groups(two))))["metadata"][0]


def test_transforms_see_the_rows_of_their_own_data_set(make):
    one, two = make("one", {"a": 3}), make("two", {"c": 4})
    seen = []

    def look(sample):
        seen.append((sample["metadata"]["dataset"], sample["unit_ids"].tolist()))
        return sample

    list(loader_of(mix([one, two]), transform=look))
    assert {name for name, _ in seen} == {"one", "two"}
    assert {tuple(rows) for name, rows in seen if name == "two"} == {(3, 4, 5, 6)}


def test_folders_of_one_name_are_told_by_their_paths(make, tmp_path):
    folders = [str(make("x/data", {"a": 2})), str(make("y/data", {"c": 2})), str(make("z", {"d": 2}))]
    names = {said["dataset"] for batch in loader_of(mix(folders)) for said in batch["metadata"]}
    assert names == {*map(str, map(Path.resolve, map(Path, folders[:2]))), "z"}


def test_one_folder_twice_has_its_units_once(make):
    one, two = make("one", {"a": 3}), make("two", {"c": 4})
    loader = loader_of(mix([one, two, one]))
    assert len(loader.dataset.table("units")) == 7
    samples = [pair for batch in loader for pair in zip(batch["unit_ids"], batch["metadata"], strict=True)]
    assert_units_are_their_own(samples, loader.dataset.table("units"))


def test_windows_of_stored_recordings_are_mixed_with_shards(make):
    one = make("one", {"a": 3})
    stored = make("stored", {"b": 2, "c": 1}, layout="recordings", windows={})
    loader = loader_of(mix([one, open_windows(stored, {"overlap": 0.0})]))
    samples = [pair for batch in loader for pair in zip(batch["unit_ids"], batch["metadata"], strict=True)]
    assert len(assert_units_are_their_own(samples, loader.dataset.table("units"))) == 3
    with pytest.raises(ConfigError, match="ms per bin: 10 in one, 20 in stored"):
        mix([one, open_windows(stored, {"overlap": 0.0, "bin_size_ms": 20.0})])


@pytest.mark.parametrize(
    ("windows", "says"),
    [
        ({"bin_size_ms": 20.0}, r"ms per bin: 10 in one, 20 in two\. Convert them alike.*on_different='allow'"),
        ({"sequence_length": 50}, "bins in a window: 100 in one, 50 in two"),
    ],
)
def test_other_bins_are_an_error_unless_they_are_allowed(make, windows, says):
    folders = [make("one", {"a": 3}), make("two", {"c": 4}, windows={"overlap": 0.0, **windows})]
    with pytest.raises(ConfigError, match=says):
        mix(folders)
    loader = loader_of(mix(folders, on_different="allow"))
    assert {said["dataset"] for batch in loader for said in batch["metadata"]} == {"one", "two"}
    with pytest.raises(ConfigError, match="on_different='no'"):
        mix(folders, on_different="no")


def test_rates_that_differ_are_an_error(make, monkeypatch):
    from neurofm_shards.reading.samples import timing_of

    facts = [{"modalities": {"lfp": {"rate_hz": rate}}} for rate in (1000.0, 500, 1000.0)]
    assert timing_of(facts) == {"samples of lfp per second": (500.0, 1000.0)}
    one, two = make("one", {"a": 3}), make("two", {"c": 4})
    rates = itertools.cycle([(1000.0,), (500.0,)])
    monkeypatch.setattr(
        "neurofm_shards.reading.collection.ShardCollection.timing", lambda _: {"samples of lfp per second": next(rates)}
    )
    with pytest.raises(ConfigError, match="samples of lfp per second: 1000 in one, 500 in two"):
        mix([one, two])


def test_data_sets_of_arrays_are_mixed_as_they_are(tmp_path):
    for name in ("one", "two"):
        create_shards_from_arrays(tmp_path / name, {"x": np.arange(10)}, 4)
    loader = loader_of(mix([tmp_path / "one", tmp_path / "two"]))
    found = [
        (int(x), said["dataset"]) for batch in loader for x, said in zip(batch["x"], batch["metadata"], strict=True)
    ]
    assert sorted(found) == [(i, name) for i in range(10) for name in ("one", "two")]
