"""Sessions are told by the manifest's sources."""

from __future__ import annotations

from neurofm_shards.format.manifest import Manifest, ShardEntry, split_counts
from neurofm_shards.format.sessions import session_summaries


def manifest(*sources, total=14):
    shard = ShardEntry(
        shard_name="a.tar", shard_idx=0, num_samples=total, shard_bytes=1, tar_bytes=1, checksum="0" * 32
    )
    return Manifest(
        total_samples=total, total_shards=1, shard_size=100, compression="none", modalities=[], columns=[],
        shards=[shard], sources=list(sources),
    )  # fmt: skip


def source(session, samples, splits, extent, **more):
    facts = {"subject_id": "m1", "extent_s": extent, "bin_size_ms": 10.0, "window_bins": 100, "splits": splits}
    return {"files": [f"{session}.nwb"], "session_id": session, "num_samples": samples, "facts": facts, **more}


def test_inputs_of_one_session_are_added_up():
    made = manifest(
        source("a", 5, {"train": 3, "val": 2}, [0.0, 9.0], drops={"masked": 1}, tables={"units": [0, 4]}),
        source("b", 7, {"train": 7}, [2.0, 4.0]),
        source("a", 2, {"val": 2}, [20.0, 30.0], drops={"masked": 2}, tables={"units": [9, 2]}),
    )
    found = session_summaries(made)
    assert [(s.name, s.samples, s.extent_s) for s in found] == [("a", 7, (0.0, 30.0)), ("b", 7, (2.0, 4.0))]
    assert [s.recorded_s for s in found] == [19.0, 2.0]
    assert (found[0].drops, found[0].tables, found[0].splits) == ({"masked": 3}, {"units": 6}, {"train": 3, "val": 4})
    assert split_counts(made) == {"train": 10, "val": 4}


def test_inputs_without_a_session_stay_apart():
    found = session_summaries(
        manifest({"files": ["x.npy"], "num_samples": 3}, {"files": ["y.npy"], "num_samples": 4}, total=7)
    )
    assert [(s.name, s.files, s.samples, s.extent_s) for s in found] == [
        ("", ("x.npy",), 3, None),
        ("", ("y.npy",), 4, None),
    ]


def test_numbers_that_do_not_add_up_are_not_told():
    made = manifest(source("a", 5, {"train": 5}, [0.0, 9.0]), total=4)
    found = session_summaries(made)
    assert split_counts(made) == {}
    assert (found[0].samples, found[0].splits, found[0].extent_s) == (None, {}, (0.0, 9.0))


def test_pauses_are_not_recorded_time():
    paused = source("a", 14, {}, [0.0, 40.0])
    paused["facts"]["recorded_s"] = 20.0
    assert session_summaries(manifest(paused))[0].recorded_s == 20.0


def test_time_that_was_left_out_is_that_of_all_inputs():
    one, two = source("a", 7, {}, [0.0, 40.0]), source("a", 7, {}, [50.0, 60.0])
    one["facts"]["left_out_s"] = {"not recorded": [[1, 2.5]], "short": [[39.5, 40.0]]}
    two["facts"]["left_out_s"] = {"not recorded": [[55.0, 56.0]]}
    (found,) = session_summaries(manifest(one, two))
    assert found.left_out_s == {"not recorded": [(1.0, 2.5), (55.0, 56.0)], "short": [(39.5, 40.0)]}


def test_splits_are_in_the_order_of_shards_and_saved_ones_count():
    made = manifest(source("a", 5, {"test": 5}, [0.0, 9.0]), source("b", 7, {"train": 7}, [0.0, 9.0]), total=12)
    assert list(split_counts(made)) == ["test", "train"]
    (shard,) = made.shards
    shards = [shard.model_copy(update={"split": name}) for name in ("train", "test")]
    assert list(split_counts(made.model_copy(update={"shards": shards}))) == ["train", "test"]
    saved = made.model_copy(update={"splits": {"x": 12}})
    assert split_counts(saved) == {"x": 12}
    assert [session.splits for session in session_summaries(saved)] == [{}, {}]
