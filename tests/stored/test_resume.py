"""Runs over windows that are killed go on exactly: windows that move in every epoch, other ranks, other workers."""

from __future__ import annotations

import itertools
import json
import os
import signal

import made_recordings
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_recordings import session

from neurofm_shards import (
    ResumableWebDatasetLoader,
    WebDatasetLoader,
    convert_inputs,
    create_webdataset_dataloader,
    register_source,
)
from neurofm_shards.plugins.registry import registry

BASE = {"modalities": ["spikes", "behavior"], "missing": "mask", "spikes": "both", "unit_table_path": "units"}
WINDOWS = {
    "still": {**BASE, "sequence_length": 20, "stride": 11},
    "jitter": {**BASE, "sequence_length": 20, "stride": 10, "jitter": True, "seed": 3},
    "random": {**BASE, "sequence_length": 20, "random": True},
    "lengths": {**BASE, "lengths": [10, 35], "random": True, "seed": 1},
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    registry.cache_clear()
    register_source(made_recordings.ENTRY)
    top = tmp_path_factory.mktemp("recorded")
    files = [made_recordings.file_of(top / "in", name, session(seed)) for name, seed in (("a", 8), ("b", 2), ("c", 6))]
    convert_inputs(files, top / "out", {"layout": "recordings", "piece_bytes": 4_000})
    return top / "out"


def one(metadata, spikes, times):
    """Name a sample by what it is and what it holds."""
    place = metadata["sample_id"], metadata["session_id"], metadata["window_start_s"], metadata["window_stop_s"]
    return *place, np.asarray(spikes).tobytes(), np.asarray(times).tobytes()


def samples(batch):
    """Return the samples of a batch."""
    return list(map(one, batch["metadata"], batch["spikes"], batch["spike_times"]))


def loaders(folder, windows, world, workers, shuffle="global"):
    """Make the loaders of all ranks."""
    options = {"pin_memory": False, "shuffle": shuffle, "ragged": "list"}
    return [
        create_webdataset_dataloader(
            folder, 4, workers, windows=WINDOWS[windows], rank=rank, world_size=world, **options
        )
        for rank in range(world)
    ]


def steps(made, count):
    """Take steps of all ranks at once; returns the samples, and the state behind them, of the first rank."""
    iterators = [iter(loader) for loader in made]
    seen = [[sample for iterator in iterators for sample in samples(next(iterator))] for _ in range(count)]
    state = json.loads(json.dumps(made[0].state_dict()))
    for iterator in iterators:
        iterator.close()
    return seen, state


def restored(made, state):
    for loader in made:
        loader.load_state_dict(state)
    return made


@settings(max_examples=10, phases=[Phase.generate])
@given(
    windows=st.sampled_from(sorted(WINDOWS)),
    epoch=st.integers(0, 2),
    stop=st.integers(0, 6),
    worlds=st.sampled_from([(1, 1), (2, 2), (1, 2), (2, 1), (2, 3), (3, 2)]),
    workers=st.sampled_from([(0, 0), (0, 2), (2, 0), (2, 1)]),
    shuffle=st.sampled_from(["global", False]),
)
def test_a_run_that_stops_anywhere_goes_on_with_the_samples_that_are_left(
    recorded, windows, epoch, stop, worlds, workers, shuffle
):
    (whole,) = loaders(recorded, windows, 1, 0, shuffle)
    for _ in range(epoch):
        list(whole)
    expected = [sample for batch in whole for sample in samples(batch)]
    first = loaders(recorded, windows, worlds[0], workers[0], shuffle)
    for loader in first:
        for _ in range(epoch):
            list(loader)
    stop = min(stop, len(first[0]) - 1)
    seen, state = steps(first, stop)
    again = restored(loaders(recorded, windows, worlds[1], workers[1], shuffle), state)
    rest = [[sample for batch in loader for sample in samples(batch)] for loader in again]
    done, left = list(itertools.chain(*seen)), list(itertools.chain(*rest))
    assert set(done) | set(left) == set(expected)
    assert len(done) + len(left) - len(expected) < sum(worlds), "more than padding repeats"
    if worlds == (1, 1):
        assert done + left == expected, "the same order, the same values"
    following = [sample for loader in again for batch in loader for sample in samples(batch)]
    later = {sample for batch in whole for sample in samples(batch)}
    assert set(following) == later, "the next epoch, too"
    moves = windows != "still"
    assert (later != set(expected)) is moves


@pytest.mark.parametrize("windows", sorted(WINDOWS))
def test_a_killed_process_goes_on_behind_its_last_checkpoint(recorded, tmp_path, windows):
    log, path = tmp_path / "log", tmp_path / "state.json"
    options = {"windows": WINDOWS[windows], "checkpoint_interval": 3}

    def named(sample):
        found = sample["metadata"]
        return f"{found['sample_id']} {found['window_start_s']!r} {int(sample['spikes'].sum())}"

    def run(kill_at):
        loader = ResumableWebDatasetLoader(recorded, path, **options)
        with log.open("a") as file:
            for count, sample in enumerate(loader):
                print(named(sample), file=file, flush=True)
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    for kill_at in (7, 11, None):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run(kill_at)
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == (0 if kill_at is None else -signal.SIGKILL)
    whole = [named(sample) for sample in WebDatasetLoader(recorded, windows=WINDOWS[windows])]
    lines = log.read_text().splitlines()
    assert set(lines) == set(whole)
    assert len(lines) - len(whole) <= 2 * 3, "no more is repeated than lay behind the last checkpoints"
    assert list(dict.fromkeys(lines)) == whole, "in the same order"
