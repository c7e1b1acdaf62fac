"""Windows that lie elsewhere in every epoch, and windows of several lengths.

Broken on purpose, each of these is caught here: an offset that is the same in every epoch or for every stretch, a
window that leaves its stretch or crosses a split, one window fewer than fit, a stretch that goes on into the next
recording, rows of tables that are counted once per length.
"""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_recordings import WINDOWS, drained, plain, said, same

from neurofm_shards import ShardDataset, WebDatasetLoader, convert_inputs, create_webdataset_dataloader, open_windows
from neurofm_shards.errors import ConfigError, NeurofmShardsError, NothingToConvertError
from neurofm_shards.loading.batching import OneSession
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings.memory import events

JITTER = {**WINDOWS, "modalities": ["spikes"], "spikes": "events", "stride": 10, "jitter": True}


def test_jitter_moves_each_window_within_its_stride_and_never_out_of_its_stretch(recorded):
    with open_windows(recorded, JITTER) as moved, open_windows(recorded, {**JITTER, "jitter": False}) as still:
        rows = np.arange(still.num_samples)
        stride = 10 * 10_000_000
        shifts = []
        for epoch in range(60):
            _, _, starts, stops = moved._placed(moved.rows_in(epoch, rows))
            assert (stops - starts == still.plan.stops - still.plan.starts).all()
            assert (starts <= np.maximum(still.plan.latest, still.plan.starts)).all()
            shifts.append(starts - still.plan.starts)
        shifts = np.stack(shifts)
        assert ((shifts >= 0) & (shifts < stride)).all()
        free = still.plan.latest - still.plan.starts >= stride - 1
        assert free.sum() > 20
        middle = shifts[:, free] / stride
        assert abs(middle.mean() - 0.5) < 0.03, "uniform within the stride"
        assert len(np.unique(middle, axis=0)) == 60, "another one in every epoch"
        edge = ~free & (still.plan.latest > still.plan.starts)
        room = (still.plan.latest - still.plan.starts)[edge]
        assert (np.abs(shifts[:, edge] / room - 0.5).mean(axis=0) < 0.4).all(), "drawn from what is left, not clipped"
        said = still.metadata(rows)
        for split_name in {m["split"] for m in said}:
            mine = np.array([m["split"] == split_name and m["session_id"] == "a" for m in said])
            others = np.array([m["split"] != split_name and m["session_id"] == "a" for m in said])
            last = (shifts + still.plan.stops)[:, mine]
            for start in still.plan.starts[others]:
                assert not ((last > start) & ((shifts + still.plan.starts)[:, mine] < start)).any(), "across a border"


def test_jittered_windows_hold_what_lies_there(recorded):
    with open_windows(recorded, JITTER) as moved:
        rows = moved.rows_in(3, np.arange(40))
        assert len(set(rows.tolist()) & set(range(moved.num_samples))) == 0
        found, metadata = moved.gather(rows), moved.metadata(rows)
        for i, said_ in enumerate(metadata):
            samples = moved._samples(0)
            trains = samples._parts[0]._trains
            ticks, owner = trains.ticks, trains.owner
            start = moved._placed(rows[i : i + 1]).starts[0]
            assert said_["window_start_s"] == start / 1e9
            inside = (ticks >= start) & (ticks < start + samples.window_ticks)
            assert found["spike_units"][i].tolist() == owner[inside].tolist()
            np.testing.assert_allclose(found["spike_times"][i], (ticks[inside] - start) / 1e9, atol=1e-6)
        assert metadata[0]["sample_id"] == "sample_000000001", "a window keeps its name"


def test_jitter_is_a_function_of_epoch_and_window_so_that_resume_is_exact(recorded):
    make = lambda workers=0, seed=0: create_webdataset_dataloader(  # noqa: E731
        recorded,
        4,
        workers,
        windows={**JITTER, "seed": seed},
        shuffle="global",
        pin_memory=False,
        ragged="packed",
    )
    loader = make()
    first, second = drained(loader), drained(loader)
    again = make(workers=2)
    assert drained(again) == first
    iterator = iter(again)
    for _ in range(3):
        next(iterator)
    state = again.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    assert drained(resumed) == second[3:]
    assert first != second
    assert drained(make(seed=1)) != first
    with pytest.raises(NeurofmShardsError, match="fingerprint"):
        make(seed=1).load_state_dict(state)
    found = [plain(sample["spike_times"]) for sample in WebDatasetLoader(recorded, shuffle=False, windows=JITTER)]
    with open_windows(recorded, JITTER) as windows:
        values = windows.gather(windows.rows_in(0, np.arange(windows.num_samples)))["spike_times"]
        assert found == [["torch.float32", value.tobytes(), value.shape] for value in values]


def test_a_data_set_gives_the_windows_of_the_epoch_that_it_is_set_to(recorded):
    dataset = ShardDataset(recorded, windows=JITTER)
    loader = torch.utils.data.DataLoader(dataset, 8, num_workers=2, collate_fn=list)
    with open_windows(recorded, JITTER) as windows:
        for epoch in (0, 3, 1):
            dataset.set_epoch(epoch)
            wanted = windows.gather(windows.rows_in(epoch, np.arange(len(dataset))))["spike_times"]
            found = [sample["spike_times"].numpy() for batch in loader for sample in batch]
            assert [value.tobytes() for value in found] == [value.tobytes() for value in wanted]


def test_jitter_of_aligned_windows_is_refused(recorded):
    with pytest.raises(ConfigError, match="sampling=fixed"):
        open_windows(recorded, {"sampling": "trial", "jitter": True})


RANDOM = {name: value for name, value in JITTER.items() if name not in ("jitter", "stride")} | {"random": True}
BIN = 10_000_000
MASK = (1 << 64) - 1


def mixed(value):
    """SplitMix64's finaliser, with Python's integers."""
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def random_fixed_windows(low, high, length, offset):
    """What torch_brain's RandomFixedWindowSampler makes of one interval, in whole ticks, in time order."""
    found = list(range(low + offset, high - length + 1, length))
    right = high - (found[-1] + length) if found else high - low - offset
    if right + offset >= length:
        found.append(high - length if right > offset else low)
    return sorted(found)


def stretches(windows, length):
    """Return the first tick of each stretch, and that behind its last, out of windows that start at every bin."""
    found = []
    plan = windows.plan
    edges = np.concatenate([[0], np.cumsum(plan.runs[:, 2])]).tolist()
    for first, last in pairwise(edges):
        starts = plan.starts[first:last]
        for part in np.split(np.arange(first, last), np.flatnonzero(np.diff(starts) != BIN) + 1):
            low, high = int(plan.starts[part[0]]), int(plan.latest[part[0]]) + length
            found.append((low, high))
    return found


def check_random(folder, extra):
    """Compare random windows of a data set with those of the sampler they are named for."""
    said_ = {**RANDOM, **extra}
    length = said_["sequence_length"] * BIN
    still = {name: value for name, value in said_.items() if name != "random"} | {"stride": 1}
    with open_windows(folder, {**said_, "seed": 5}) as windows, open_windows(folder, still) as dense:
        places = stretches(dense, length)
        for epoch in (0, 1, 7):
            _, groups, starts, stops = windows._placed(windows.rows_in(epoch, np.arange(windows.num_samples)))
            assert (stops - starts == length).all()
            expected, row = [], 0
            for low, high in places:
                offset = mixed(row ^ mixed(epoch ^ mixed(5))) % length
                mine = random_fixed_windows(low, high, length, offset)
                assert len(mine) == (high - low) // length, "as many as fit"
                expected += mine
                row += len(mine)
            assert starts.tolist() == expected
            assert len(groups) == windows.num_samples


@pytest.mark.parametrize("extra", [{}, {"sequence_length": 300}, {"split": {"by": "trial"}}, {"split": None}])
def test_random_windows_are_those_of_the_sampler_they_are_named_for(recorded, extra):
    check_random(recorded, extra)


def test_stretches_end_with_their_recording_where_the_next_one_lies_at_the_same_time(store):
    units = {"1": np.arange(0.0, 10.0, 0.07), "2": np.array([0.0, 10.0])}
    _, folder = store({"a": [events("units", units)], "b": [events("units", units)]})
    check_random(folder, {"split": None, "label_columns": []})


def test_random_windows_never_touch_two_splits(recorded):
    with open_windows(recorded, {**RANDOM, "split": {"by": "time", "purge": 0.0}}) as windows:
        rows = np.arange(windows.num_samples)
        rest = windows.metadata(rows)
        spans = {}
        for epoch in range(20):
            for before, now in zip(rest, windows.metadata(windows.rows_in(epoch, rows)), strict=True):
                assert (now["sample_id"], now["split"]) == (before["sample_id"], before["split"])
                spans.setdefault(now["session_id"], []).append(
                    (now["window_start_s"], now["window_stop_s"], now["split"])
                )
        for found in spans.values():
            found.sort()
            for (_, stop, name), (start, _, following) in pairwise(found):
                assert name == following or stop <= start


def test_random_windows_resume_exactly_and_belong_to_their_seed(recorded):
    make = lambda seed=0, **more: create_webdataset_dataloader(  # noqa: E731
        recorded, 4, more.pop("workers", 0), windows={**RANDOM, "seed": seed}, shuffle="global", pin_memory=False,
        ragged="packed", **more,
    )  # fmt: skip
    loader = make()
    first, second = drained(loader), drained(loader)
    assert first != second
    again = make(workers=2)
    assert drained(again) == first
    iterator = iter(again)
    for _ in range(2):
        next(iterator)
    state = json.loads(json.dumps(again.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert drained(resumed) == second[2:]
    with pytest.raises(NeurofmShardsError, match="fingerprint"):
        make(seed=1).load_state_dict(state)
    with pytest.raises(NeurofmShardsError, match="fingerprint"):
        create_webdataset_dataloader(recorded, 4, windows=JITTER, pin_memory=False).load_state_dict(state)


LENGTHS = {name: value for name, value in WINDOWS.items() if name != "sequence_length"} | {"overlap": 0.5}


@settings(max_examples=6, phases=[Phase.generate])
@given(lengths=st.lists(st.sampled_from([5, 12, 20, 31]), min_size=1, max_size=3, unique=True),
       split=st.sampled_from([None, {"by": "time", "purge": 0.3}, {"by": "trial"}, {"by": "session"}]))  # fmt: skip
def test_lengths_mix_what_each_length_gives(recorded, tmp_path_factory, lengths, split):
    options = {**LENGTHS, "split": split}
    with open_windows(recorded, {**options, "lengths": lengths}) as mixed_:
        metadata = mixed_.metadata(np.arange(mixed_.num_samples))
        total = 0
        for length in lengths:
            folder = tmp_path_factory.mktemp("windows")
            purge = (
                {} if split is None else {"split": {**split, "purge": split.get("purge", 1.0) * max(lengths) / length}}
            )
            convert_inputs(recorded, folder / "out", {"windows": {**options, "sequence_length": length, **purge}})
            rows = np.flatnonzero([m["window_bins"] == length for m in metadata])
            with ShardCollection.open(folder / "out") as alone:
                total += alone.num_samples
                assert len(rows) == alone.num_samples
                found, expected = mixed_.gather(rows), alone.gather(np.arange(len(rows)))
                assert set(found) == set(expected)
                assert all(same(found[name], expected[name]) for name in expected)
                mine = [{k: v for k, v in m.items() if k != "window_bins"} for m in (metadata[i] for i in rows)]
                assert said(mine) == said(alone.metadata(np.arange(len(rows))))
                assert [mixed_.table(name) for name in alone.manifest.tables] == [
                    alone.table(name) for name in alone.manifest.tables
                ]
        assert mixed_.num_samples == total


@pytest.mark.parametrize("how", [{}, {"jitter": True}, {"random": True}])
def test_windows_of_several_lengths_make_ragged_batches_or_batches_of_one_length(recorded, how):
    options = {"modalities": ["spikes"], "unit_table_path": "units", "lengths": [10, 25], **how}
    common = {"windows": options, "shuffle": "global", "pin_memory": False}
    loader = create_webdataset_dataloader(recorded, 8, 0, ragged="pad", **common)
    seen = set()
    for batch in loader:
        bins = [m["window_bins"] for m in batch["metadata"]]
        assert batch["spikes"].shape[1] == max(bins)
        lengths = [round((m["window_stop_s"] - m["window_start_s"]) * 100) for m in batch["metadata"]]
        assert lengths == bins
        seen.add(frozenset(bins))
    assert frozenset([10, 25]) in seen
    alike = create_webdataset_dataloader(recorded, 8, 0, batching=OneSession(by="window_bins"), ragged="pad", **common)
    assert {frozenset(m["window_bins"] for m in batch["metadata"]) for batch in alike} == {
        frozenset([10]),
        frozenset([25]),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random": True, "jitter": True}, "give one of them"),
        ({"random": True, "stride": 5}, "end to end"),
        ({"random": True, "overlap": 0.1}, "end to end"),
        ({"random": True, "on_last_window": "pad"}, "leave on_last_window out"),
        ({"random": True, "min_valid_fraction": 0.5}, "weight by the masks"),
        ({"jitter": True, "min_valid_fraction": 0.5}, "weight by the masks"),
        ({"random": True, "sampling": "trial"}, "sampling=fixed"),
        ({"lengths": [5, 10], "sequence_length": 5}, "give one of them"),
        ({"lengths": [5, 5]}, "names a length twice"),
        ({"lengths": []}, "lengths"),
        ({"lengths": [0]}, "lengths"),
        ({"lengths": [5, 10], "sampling": "trial"}, "sampling=fixed"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(recorded, options, message):
    with pytest.raises(ConfigError, match=message):
        open_windows(recorded, options)


def test_a_length_that_no_recording_holds_is_named(recorded):
    with pytest.raises(NothingToConvertError, match="no windows of 99999 bins"):
        open_windows(recorded, {**LENGTHS, "lengths": [20, 99_999]})
