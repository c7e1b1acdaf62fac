"""Mixtures: deterministic, resumable and divided among ranks like a single data set."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards import ShardDataset, create_shards_from_arrays, create_webdataset_dataloader
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.format.metadata_table import MetadataTable
from neurofm_shards.loading.plans.mixing import Mix, mix, mix_groups
from neurofm_shards.loading.plans.options import PlanOptions
from neurofm_shards.loading.state import LoaderState
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.plugins.registry import register_source
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events
from neurofm_shards.stored.windows import open_windows

MODES = st.sampled_from([False, True, "global"])
DATA = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4)


def drawn(request):
    """(data set, row) of each sample of a batch, in its order."""
    joined = [(number, row) for number, rows in request.parts for row in rows.tolist()]
    return joined if request.order is None else [joined[i] for i in request.order.tolist()]


def epoch_of(plan, epoch=0, position=0):
    return [pair for request in plan.requests(epoch, position) for pair in drawn(request)]


def collections_of(stored, data):
    return [stored(sizes, f"data {i}") for i, sizes in enumerate(data)]


@given(DATA, MODES, st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=50)
def test_without_weights_an_epoch_has_every_sample_of_every_data_set_once(stored, data, mode, batch_size, epoch):
    plan = mix(collections_of(stored, data)).plan(PlanOptions(shuffle=mode, batch_size=batch_size, buffer_size=7))
    assert sorted(epoch_of(plan, epoch)) == [(i, row) for i, sizes in enumerate(data) for row in range(sum(sizes))]


@given(DATA, st.data(), MODES, st.sampled_from(["first_exhausted", "all_exhausted", 37]), st.integers(0, 3))
@settings(max_examples=50)
def test_each_data_set_runs_through_epochs_of_its_own_across_epochs_of_the_mix(stored, data, draw, mode, stop, epochs):
    weights = draw.draw(st.lists(st.floats(0.1, 10), min_size=len(data), max_size=len(data)))
    plan = mix(collections_of(stored, data), weights, stop=stop).plan(
        PlanOptions(shuffle=mode, batch_size=4, buffer_size=7)
    )
    pairs = [pair for epoch in range(epochs + 1) for pair in epoch_of(plan, epoch)]
    assert len(pairs) == sum(plan.length(epoch) for epoch in range(epochs + 1))
    for number, sizes in enumerate(data):
        rows = [row for n, row in pairs if n == number]
        for first in range(0, len(rows), sum(sizes)):
            inner = rows[first : first + sum(sizes)]
            assert len(set(inner)) == len(inner)


@given(DATA, st.data())
@settings(max_examples=50)
def test_an_epoch_stops_with_the_first_or_the_last_data_set(stored, data, draw):
    weights = draw.draw(st.lists(st.floats(0.1, 10), min_size=len(data), max_size=len(data)))
    sizes = [sum(each) for each in data]
    for stop, reached in [("first_exhausted", any), ("all_exhausted", all)]:
        plan = mix(collections_of(stored, data), weights, stop=stop).plan(PlanOptions(shuffle="global", batch_size=3))
        ends = [plan.counts.tolist(), plan._schedule.counts(plan.length(0) - 1).tolist()]
        assert reached(n >= size for n, size in zip(ends[0], sizes, strict=True))
        assert not reached(n >= size for n, size in zip(ends[1], sizes, strict=True))


@given(DATA, MODES, st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(0, 5)), max_size=4))
@settings(max_examples=50)
def test_any_interruption_and_any_new_topology_continues_the_same_order(stored, data, mode, runs):
    sources = mix(collections_of(stored, data), range(1, len(data) + 1), stop=50)
    position, found = 0, []
    for batch_size, world_size, stop_after in [*runs, (3, 2, 10**6)]:
        of_ranks = [
            sources.plan(PlanOptions(shuffle=mode, batch_size=batch_size, buffer_size=9, rank=r, world_size=world_size))
            for r in range(world_size)
        ]
        steps = list(zip(*(plan.requests(1, position) for plan in of_ranks), strict=True))
        for step in steps[:stop_after]:
            for request in step:
                found += drawn(request)[: len(request) - request.padding]
            position = step[0].position_after
            assert position == len(found)
    assert found == epoch_of(sources.plan(PlanOptions(shuffle=mode, batch_size=50, buffer_size=9)), 1)


def test_weights_decide_how_often_each_is_drawn_from(stored):
    plan = mix([stored([1000]), stored([1000], "b")], [3, 1], stop=800).plan(PlanOptions(batch_size=32))
    numbers = [number for number, _ in epoch_of(plan)]
    assert numbers.count(0) == 600
    assert np.mean([abs(np.mean(numbers[i : i + 32]) - 0.25) < 0.1 for i in range(0, 800, 32)]) > 0.4


def test_temperature_lies_between_sizes_and_evenness(stored):
    sources = [stored([10_000]), stored([100], "b")]
    shares = [np.divide(*mix(sources, temperature=t).weights) for t in (1, 2, float("inf"))]
    assert shares == pytest.approx([100, 10, 1])


def test_data_sets_of_one_size_are_not_shuffled_alike(stored):
    pairs = epoch_of(mix([stored([500]), stored([500], "b")]).plan(PlanOptions(shuffle="global", batch_size=10)))
    one, other = ([row for n, row in pairs if n == number] for number in (0, 1))
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 20


def test_sessions_of_one_data_set_are_mixed_by_temperature(stored):
    collection = stored([60, 40])
    collection.metadata_table = lambda: MetadataTable.of([{"session_id": "a" if i < 90 else "b"} for i in range(100)])
    plan = mix_groups(collection, temperature=float("inf"), stop=40).plan(PlanOptions(batch_size=8))
    rows = [row for _, row in epoch_of(plan)]
    assert sum(row >= 90 for row in rows) == 20
    assert [len(request.parts) for request in plan.requests(0)] == [1] * 5


def test_subsets_are_drawn_from_alone(stored):
    plan = mix([stored([9]), stored([9], "b")], subsets=[np.array([2, 5]), None]).plan(PlanOptions(batch_size=4))
    assert sorted(epoch_of(plan)) == [(0, 2), (0, 5), *((1, row) for row in range(9))]


def test_splits_are_mixed_by_name(tmp_path):
    for name in "ab":
        metadata = [{"split": "train" if i < 4 else "test"} for i in range(6)]
        create_shards_from_arrays(tmp_path / name, {"x": np.arange(6) + 10 * (name == "b")}, metadata=metadata)
    folders = [tmp_path / name for name in "ab"]
    loader = create_webdataset_dataloader(mix(folders, subsets=["train", "test"]), batch_size=3, num_workers=0)
    assert sorted(value for batch in loader for value in batch["x"].tolist()) == [0, 1, 2, 3, 14, 15]
    with pytest.raises(ConfigError, match="there is no split 'val'; the samples have: test, train"):
        mix(folders, subsets=["train", "val"])


@pytest.mark.parametrize("rows", [[1.5], [False, True], np.array([True, False])])
def test_subsets_that_are_no_rows_are_refused(stored, rows):
    with pytest.raises(ConfigError, match="a subset must be numbers of rows"):
        mix([stored([4], "a"), stored([4], "b")], subsets=[rows, None]).plan(PlanOptions())


def test_a_state_of_a_mix_fits_it_alone_and_stays_small(stored):
    sources = [stored([5, 6], f"data {i}") for i in range(50)]
    plan = mix(sources).plan(PlanOptions(batch_size=4))
    state = LoaderState.of(plan, 0, 16)
    assert len(json.dumps(state.to_dict())) < 1024
    assert state.resume(mix(sources).plan(PlanOptions(batch_size=2, world_size=4))) == (0, 16)
    others = [
        mix(sources, np.arange(1, 51)).plan(),
        mix(sources[:49]).plan(),
        mix(sources).plan(PlanOptions(seed=1)),
        mix(sources).plan(PlanOptions(shuffle="global")),
        mix(sources, stop=99).plan(),
    ]
    for other in others:
        with pytest.raises(StateError, match="belongs to another run"):
            state.resume(other)


def test_the_shard_of_a_position_is_that_of_its_sample(stored):
    plan = mix([stored([3, 4])]).plan(PlanOptions(shuffle=False))
    assert [plan.shard_at(0, p) for p in range(8)] == [0, 0, 0, 1, 1, 1, 1, -1]


@pytest.mark.parametrize(
    ("sizes", "arguments", "says"),
    [
        ([], {}, "no data sets"),
        ([[3], [0]], {}, "data set 1"),
        ([[3], [3]], {"weights": [1]}, "1 weight for 2 sources"),
        ([[3], [3]], {"weights": [1, 0]}, "weights must be positive"),
        ([[3], [3]], {"weights": [1, 1], "temperature": 2}, "or a temperature"),
        ([[3]], {"temperature": 0}, "temperature is 0"),
        ([[3]], {"stop": "never"}, "stop='never'"),
        ([[3]], {"stop": 0}, "stop=0"),
        ([[3]], {"subsets": []}, "1 data set and 0 subsets"),
    ],
)
def test_impossible_mixtures_are_refused(stored, sizes, arguments, says):
    with pytest.raises(ConfigError, match=says):
        mix(collections_of(stored, sizes), **arguments)


def test_a_mixture_lists_its_data_sets_in_the_order_of_requests(stored):
    sources = [stored([3]), stored([4], "b")]
    assert isinstance(mix(sources), Mix)
    assert mix(sources).collections == sources


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
