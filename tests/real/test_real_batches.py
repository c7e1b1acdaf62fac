"""Several real sessions in one data set: batches, unit numbers, z-scores and splits equal what h5py and NumPy say.

Broken on purpose, each of these was seen to be caught here: row numbers of units not shifted per session, padding not
masked, statistics over all splits, a split that begins within the gap after the one before, no gap where a split
changes (windows of both sides then touch), windows of trials that are near another split's kept, and a session without
a modality refused for its unit of measure.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from reference_files import spike_trains, to_ns
from reference_shards import read_samples
from reference_windows import counts

pytestmark = pytest.mark.plugins
pytest.importorskip("h5py")
pytest.importorskip("neurofm_shards_nwb")

SESSIONS = ("A2929_head_direction.nwb", "A8604_three_units.nwb", "anm00239123_photostim_trials.nwb")
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def convert(shared_data, tmp_path_factory):
    """Convert real recordings to a folder of their own, and return it."""

    def converted(names, **windows):
        from neurofm_shards.convert.session import convert_inputs

        folder = tmp_path_factory.mktemp("converted") / "out"
        # the files name no subject, which a split by subject needs
        config = {"codec": "npy", "windows": windows, "durable": False, "shard_size": 400, "subject_template": "{stem}"}
        convert_inputs([shared_data / name for name in names], folder, config)
        return folder

    return converted


@pytest.fixture(scope="module")
def folder(convert):
    """Three sessions of 15, 3 and 4 units, split by time; one of them has behaviour."""
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2}
    split = {"by": "time", "fractions": fractions}
    return convert(SESSIONS, modalities=("spikes", "behavior"), missing="mask", overlap=0.5, split=split)


@pytest.fixture(scope="module")
def samples(folder):
    return {sample["key"]: sample for sample in read_samples(folder)}


@pytest.mark.parametrize("shuffle", [True, "global"])
def test_padded_batches_hold_each_sessions_own_units_and_mask_the_rest(shared_data, folder, shuffle):
    from neurofm_shards import create_webdataset_dataloader

    trains, first, seen = {}, 0, 0
    for name in SESSIONS:
        ids, times = spike_trains(shared_data / name)
        trains[name] = (first, ids, times)
        first += len(ids)
    loader = create_webdataset_dataloader(folder, batch_size=64, shuffle=shuffle, ragged="pad", num_workers=2)
    units = loader.dataset.table("units")
    for batch in loader:
        seen += len(batch["metadata"])
        assert not batch["unit_ids"].is_floating_point()
        for i in range(0, len(batch["metadata"]), 16):
            said = batch["metadata"][i]
            first, ids, times = trains[said["source_file"]]
            start = to_ns([said["window_start_s"]])
            assert batch["spikes_mask"][i].nonzero().flatten().tolist() == list(range(len(ids)))
            assert np.array_equal(batch["spikes"][i, :, : len(ids)], counts(times, start, 10_000_000, 100)[0])
            assert not batch["spikes"][i, :, len(ids) :].any()
            rows = batch["unit_ids"][i, : len(ids)].tolist()
            assert rows == list(range(first, first + len(ids)))
            assert [units[row]["id"] for row in rows] == [f"{said['session_id']}/units/{unit}" for unit in ids]
            assert bool(batch["behavior_mask"][i].any()) == (said["source_file"] == SESSIONS[0])
    assert seen == len(loader.dataset)


def test_batches_of_one_session_need_no_padding(folder):
    from neurofm_shards import create_webdataset_dataloader
    from neurofm_shards.loading.plans.batching import OneSession

    loader = create_webdataset_dataloader(folder, batch_size=50, batching=OneSession(), ragged="pad", num_workers=0)
    widths = {"A2929": 15, "A8604": 3, "anm00": 4}
    for batch in loader:
        session = {said["session_id"] for said in batch["metadata"]}
        assert len(session) == 1
        assert batch["spikes"].shape[1:] == (100, widths[session.pop()[:5]])
        assert batch["spikes_mask"].all()


def test_z_scores_use_the_training_samples_of_each_session(folder, samples):
    from neurofm_shards import create_webdataset_dataloader

    pytest.importorskip("neurofm_shards_transforms")
    moments = {}
    for session in {sample["metadata"]["session_id"] for sample in samples.values()}:
        own = [s for s in samples.values() if s["metadata"]["session_id"] == session]
        train = np.concatenate([s["spikes"] for s in own if s["metadata"]["split"] == "train"]).astype(np.float64)
        whole = np.concatenate([s["spikes"] for s in own]).astype(np.float64)
        assert not np.allclose(train.mean(axis=0), whole.mean(axis=0), rtol=1e-4)
        moments[session] = train.mean(axis=0), train.std(axis=0)
    scored = {"kind": "zscore", "fields": ["spikes", "behavior"], "by": "session"}
    loader = create_webdataset_dataloader(folder, batch_size=97, ragged="pad", num_workers=0, transforms=scored)
    for batch in loader:
        for i in range(0, len(batch["metadata"]), 12):
            said = batch["metadata"][i]
            stored, (mean, std) = samples[said["sample_id"]]["spikes"], moments[said["session_id"]]
            wanted = (stored - mean) / std
            assert np.allclose(batch["spikes"][i, :, : len(mean)], wanted, rtol=1e-5, atol=1e-5)


def apart(samples):
    """Return the least time between windows of different splits of one session, in seconds; negative: they overlap."""
    least = np.inf
    by_session: dict[str, list[tuple[int, int, str]]] = {}
    for sample in samples:
        said = sample["metadata"]
        start, stop = to_ns([said["window_start_s"], said["window_stop_s"]]).tolist()
        by_session.setdefault(said["session_id"], []).append((start, stop, said["split"]))
    for windows in by_session.values():
        starts, stops, splits = (np.array(column) for column in zip(*windows, strict=True))
        between = np.maximum(starts[None, :] - stops[:, None], starts[:, None] - stops[None, :])
        other = splits[:, None] != splits[None, :]
        least = min(least, between[other].min() / SECOND) if other.any() else least
    return least


def test_windows_of_different_stretches_of_time_are_a_window_apart(samples):
    assert {sample["metadata"]["split"] for sample in samples.values()} == {"train", "val", "test"}
    assert apart(samples.values()) >= 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": 0.5},
        {"sampling": "trial", "align_field": "cue_start_time", "align_range_ms": (-3000.0, 5000.0)},
    ],
)
def test_windows_of_different_trials_share_no_bin(convert, options):
    split = {"by": "trial", "fractions": {"train": 0.6, "val": 0.2, "test": 0.2}, "purge": 1.0}
    found = read_samples(convert(SESSIONS[2:], modalities=("spikes",), split=split, **options))
    assert {sample["metadata"]["split"] for sample in found} == {"train", "val", "test"}
    assert apart(found) >= (1.0 if "overlap" in options else 8.0)


@pytest.mark.parametrize("by", ["session", "subject"])
def test_a_session_or_subject_is_in_one_split_as_a_whole(convert, by):
    split = {"by": by, "fractions": {"train": 0.5, "test": 0.5}, "seed": 3, "balanced": False}
    together = read_samples(convert(SESSIONS, modalities=("spikes",), split=split, overlap=0.0))
    alone = read_samples(convert(SESSIONS[:1], modalities=("spikes",), split=split, overlap=0.0))
    splits = {s["metadata"][f"{by}_id"]: set() for s in together}
    for sample in together:
        splits[sample["metadata"][f"{by}_id"]].add(sample["metadata"]["split"])
    assert all(len(names) == 1 for names in splits.values())
    assert {s["metadata"]["split"] for s in alone} == splits[alone[0]["metadata"][f"{by}_id"]]


@pytest.mark.parametrize("by", ["session", "subject"])
def test_whole_sessions_or_subjects_come_as_near_to_the_fractions_as_they_can(convert, by):
    split = {"by": by, "fractions": {"train": 0.5, "test": 0.5}}
    found = read_samples(convert(SESSIONS, modalities=("spikes",), split=split, overlap=0.0))
    groups = Counter(sample["metadata"][f"{by}_id"] for sample in found)
    placed = {(sample["metadata"][f"{by}_id"], sample["metadata"]["split"]) for sample in found}
    assert len(placed) == len(groups)
    train = sum(sample["metadata"]["split"] == "train" for sample in found)
    chosen = itertools.product([False, True], repeat=len(groups))
    sums = [sum(itertools.compress(groups.values(), some)) for some in chosen]
    assert abs(train - len(found) / 2) == min(abs(total - len(found) / 2) for total in sums)


def test_a_session_without_lfp_goes_with_one_that_has_it(convert):
    from neurofm_shards import create_webdataset_dataloader

    names = ("neuropixels_lf_int16.nwb", "A8604_three_units.nwb")
    folder = convert(names, modalities=("spikes", "lfp"), missing="mask", overlap=0.0, limit_windows=8)
    (batch,) = create_webdataset_dataloader(folder, batch_size=20, shuffle=False, ragged="pad", num_workers=0)
    has = np.array([said["source_file"] == names[0] for said in batch["metadata"]])
    assert np.array_equal(batch["lfp_valid"].numpy().any(axis=1), has)
    assert np.array_equal(batch["lfp_mask"].numpy().any(axis=(1, 2)), has)
    assert np.array_equal(batch["spikes_mask"].numpy().any(axis=1), ~has)
