"""Codes of labels mean the same in all sessions: in one conversion, appended, merged, and cut at load."""

from __future__ import annotations

import numpy as np
import pytest
from made_recordings import session

from neurofm_shards import ShardDataset, convert_inputs, create_webdataset_dataloader, open_windows
from neurofm_shards.cli.main import run
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings.memory import intervals

LABELS = ["outcome", {"column": "outcome", "as": "code"}, {"column": "good", "as": "code"}]
OPTIONS = {"modalities": ["spikes"], "unit_table_path": "units", "sequence_length": 10, "label_columns": LABELS}
OUTCOMES = {"a": ["hit", "miss", None, "hit", "hit", "miss"], "b": ["miss"] * 6, "c": ["early", "hit"] * 3}


def sessions():
    """Sessions whose trials end in other ways."""
    made = {}
    for seed, (name, outcomes) in enumerate(OUTCOMES.items()):
        streams = session(2 * seed, 12.0)
        (table,) = (stream for stream in streams if stream.path == "intervals/trials")
        columns = {**table.columns, "outcome": outcomes, "good": [True, False] * 3}
        odd = intervals(table.path, table.start, table.stop, columns)
        made[name] = [odd if stream is table else stream for stream in streams]
    return made


@pytest.fixture
def files(made, tmp_path):
    return [made.file_of(tmp_path / "in", name, streams) for name, streams in sessions().items()]


def assert_codes_say_what_metadata_say(collection):
    rows = np.arange(collection.num_samples)
    columns, metadata = collection.gather(rows, ["outcome_code", "good_code"]), collection.metadata(rows)
    outcomes = [row["value"] for row in collection.table("labels-outcome")]
    assert sorted(outcomes) == ["early", "hit", "miss"]
    good = [row["value"] for row in collection.table("labels-good")]
    assert good == [False, True]
    for code, flag, said in zip(columns["outcome_code"].tolist(), columns["good_code"], metadata, strict=True):
        assert (outcomes[code] if code >= 0 else "") == said["outcome"]
        assert (flag < 0) == (said["trial"] < 0)
    assert {said["outcome"] for said in metadata} == {"", "early", "hit", "miss"}
    return columns["outcome_code"].tolist()


def test_equal_labels_of_several_sessions_have_one_code(files, tmp_path):
    convert_inputs(files, tmp_path / "out", {"windows": OPTIONS, "shard_size": 7})
    with ShardCollection.open(tmp_path / "out") as stored:
        assert_codes_say_what_metadata_say(stored)
        assert [row["value"] for row in stored.table("labels-outcome")] == ["hit", "miss", "early"]
    assert run(["validate", str(tmp_path / "out")]) == 0


def test_codes_stay_what_they_are_when_sessions_are_added(files, tmp_path):
    convert_inputs(files, tmp_path / "whole", {"windows": OPTIONS})
    convert_inputs(files[:1], tmp_path / "out", {"windows": OPTIONS})
    for file in files[1:]:
        convert_inputs([file], tmp_path / "out", {"windows": OPTIONS}, mode="append")
    with ShardCollection.open(tmp_path / "out") as added, ShardCollection.open(tmp_path / "whole") as whole:
        assert assert_codes_say_what_metadata_say(added) == assert_codes_say_what_metadata_say(whole)
        assert added.table("labels-outcome") == whole.table("labels-outcome")


def test_merged_data_sets_have_one_table_of_labels(files, tmp_path):
    for name, some in (("ab", files[:2]), ("c", files[2:])):
        convert_inputs(some, tmp_path / name, {"windows": OPTIONS})
    assert run(["merge", "-i", str(tmp_path / "c"), str(tmp_path / "ab"), "-o", str(tmp_path / "out")]) == 0
    with ShardCollection.open(tmp_path / "out") as merged:
        assert_codes_say_what_metadata_say(merged)
        assert [row["value"] for row in merged.table("labels-outcome")] == ["early", "hit", "miss"]
    assert run(["validate", str(tmp_path / "out")]) == 0


def test_labels_of_the_rest_stay_when_a_session_is_withdrawn(files, tmp_path):
    convert_inputs(files, tmp_path / "out", {"windows": OPTIONS})
    assert run(["drop", str(tmp_path / "out"), "--where", "session_id == 'b'"]) == 0
    with ShardCollection.open(tmp_path / "out") as left:
        assert_codes_say_what_metadata_say(left)


@pytest.mark.parametrize("more", [{}, {"sampling": "trial"}, {"split": {"by": "trial"}}], ids=str)
def test_codes_at_load_are_codes_converted(files, tmp_path, more):
    options = {**OPTIONS, **more}
    convert_inputs(files, tmp_path / "windows", {"windows": options})
    convert_inputs(files, tmp_path / "recorded", {"layout": "recordings"})
    with open_windows(tmp_path / "recorded", options) as windows, ShardCollection.open(tmp_path / "windows") as stored:
        rows = np.random.default_rng(0).permutation(stored.num_samples)
        for name in ("outcome_code", "good_code"):
            assert np.array_equal(windows.gather(rows, [name])[name], stored.gather(rows, [name])[name])
            assert windows.columns[name] == stored.columns[name]
        assert windows.table("labels-outcome") == stored.table("labels-outcome")
        assert_codes_say_what_metadata_say(windows)


@pytest.mark.parametrize("moves", ["jitter", "random"])
def test_codes_of_windows_that_move_are_those_of_where_they_are(files, tmp_path, moves):
    convert_inputs(files, tmp_path / "recorded", {"layout": "recordings"})
    options = {**OPTIONS, moves: True, "seed": 1}
    loader = create_webdataset_dataloader(tmp_path / "recorded", batch_size=16, windows=options)
    outcomes = [row["value"] for row in loader.dataset.table("labels-outcome")]
    for batch in loader:
        for code, said in zip(batch["outcome_code"].tolist(), batch["metadata"], strict=True):
            assert (outcomes[code] if code >= 0 else "") == said["outcome"]


def test_a_sample_holds_its_code_as_a_number(files, tmp_path):
    convert_inputs(files[:1], tmp_path / "out", {"windows": OPTIONS})
    sample = ShardDataset(tmp_path / "out")[0]
    assert sample["outcome_code"].shape == ()
