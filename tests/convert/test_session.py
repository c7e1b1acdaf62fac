"""A session is one thing, whoever opens it: the same modes, checks, events and lock for calls and for converters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.convert.session import ConversionSession, IncrementalConversion, convert_inputs
from neurofm_shards.errors import ConfigError, OutputLockedError
from neurofm_shards.events import (
    ConversionFinished,
    ConversionStarted,
    InputPlanned,
    PlanningStarted,
    ShardCommitted,
    ignore,
)
from neurofm_shards.plugins.registry import registry

CONFIG = {"shard_size": 4}


def manifest(folder):
    return json.loads((folder / "dataset_metadata.json").read_text())


def one_by_one(paths, output, config=None, *, overwrite=False, observer=ignore):
    with ConversionSession(output, config, observer=observer) as session:
        conversion = IncrementalConversion(session, overwrite=overwrite)
        for path in paths:
            conversion.add([path])
        return conversion.finish()


def test_a_codec_for_a_column_that_there_is_not_is_refused(toys, tmp_path, caplog):
    paths = toys(a={"n": 5})
    with pytest.raises(ConfigError, match=r"codecs: there is no field 'xs'.*there are: unit_ids, x"):
        convert_inputs(paths, tmp_path / "out", {"codecs": {"xs": "npy"}})
    assert not (tmp_path / "out" / "dataset_metadata.json").exists()
    convert_inputs(paths, tmp_path / "out", {"codecs": {"x": "npy"}})
    assert "codecs" not in caplog.text


def test_a_codec_for_what_transforms_might_have_made_is_told_of_at_the_end(toys, tmp_path, caplog):
    paths = toys(a={"n": 5})
    config = {"transforms": [{"kind": "label", "values": "[1]"}], "codecs": {"labels": "npy"}}
    convert_inputs(paths, tmp_path / "out", config)
    assert "codecs: there is no field 'labels' (did you mean 'label'?)" in caplog.text


def added_by_call(paths, output, config):
    return convert_inputs(paths, output, config, mode="append")


def added_in_steps(paths, output, config):
    with pytest.warns(UserWarning, match="already holds"):
        return one_by_one(paths, output, config)


ADDITIONS = {"call": added_by_call, "steps": added_in_steps}


@pytest.mark.parametrize("mode", ["Append", "", "convert", "__class__", "plan"])
def test_an_unknown_mode_is_refused_with_those_there_are(toys, tmp_path, mode):
    with pytest.raises(ConfigError, match=r"mode is .*'new', 'overwrite', 'resume', 'append'"):
        convert_inputs(toys(a={"n": 5}), tmp_path / "out", mode=mode)
    assert not (tmp_path / "out").exists()


def test_one_by_one_is_all_at_once(toys, toy, tmp_path, tree):
    paths = toys(a={"n": 5}, b={"n": 9}, c={"n": 3})
    convert_inputs(paths, tmp_path / "call", CONFIG)
    one_by_one(paths, tmp_path / "steps", CONFIG)
    assert tree(tmp_path / "call") == tree(tmp_path / "steps")


def test_both_ways_tell_the_same_events(toys, toy, tmp_path):
    paths = toys(a={"n": 5}, b={"n": 9})
    told = {"call": [], "steps": []}
    convert_inputs(paths, tmp_path / "call", CONFIG, observer=told["call"].append)
    one_by_one(paths, tmp_path / "steps", CONFIG, observer=told["steps"].append)
    for kind in (InputPlanned, ShardCommitted):
        call, steps = ([event for event in told[way] if isinstance(event, kind)] for way in ("call", "steps"))
        assert len(call) == len(steps) == {InputPlanned: 2, ShardCommitted: 4}[kind]
    for events in told.values():
        assert isinstance(events[0], PlanningStarted)
        assert sum(isinstance(event, ConversionStarted) for event in events) == 1
        assert isinstance(events[-1], ConversionFinished)
        assert events[-1].summary["total_samples"] == 14


def test_observer_hooks_hear_of_both_ways(toys, toy, tmp_path, monkeypatch):
    paths = toys(a={"n": 5})
    heard = []
    monkeypatch.setattr(type(registry()), "notify", lambda _, hook, **said: heard.append((hook, sorted(said))))
    convert_inputs(paths, tmp_path / "call", CONFIG)
    call, heard[:] = heard[:], []
    one_by_one(paths, tmp_path / "steps", CONFIG)
    assert (
        heard
        == call
        == [
            ("neurofm_conversion_started", ["plan"]),
            ("neurofm_shard_committed", ["shard"]),
            ("neurofm_shard_committed", ["shard"]),
            ("neurofm_conversion_finished", ["summary"]),
        ]
    )


def test_an_open_session_keeps_the_folder_locked(toys, toy, tmp_path):
    paths = toys(a={"n": 5})
    with ConversionSession(tmp_path / "out") as session:
        conversion = IncrementalConversion(session, overwrite=False)
        conversion.add(paths)
        with pytest.raises(OutputLockedError):
            convert_inputs(paths, tmp_path / "out")
        conversion.finish()


def test_additions_take_what_the_data_set_says(toys, toy, tmp_path):
    paths = toys(a={"n": 5}, b={"n": 5}, c={"n": 5})
    convert_inputs(paths[:1], tmp_path / "out", {"shard_size": 3, "compression": "gz", "codec": "npy"})
    convert_inputs(paths[1:2], tmp_path / "out", mode="append")
    with pytest.warns(UserWarning, match="already holds"):
        one_by_one(paths[2:], tmp_path / "out")
    assert [shard["num_samples"] for shard in manifest(tmp_path / "out")["shards"]] == [3, 2] * 3
    assert all(shard["shard_name"].endswith(".tar.gz") for shard in manifest(tmp_path / "out")["shards"])


@pytest.mark.parametrize("add", ["call", "steps"])
def test_additions_with_other_settings_are_refused(toys, toy, tmp_path, add):
    paths = toys(a={"n": 5}, b={"n": 5})
    convert_inputs(paths[:1], tmp_path / "out", CONFIG)
    with pytest.raises(ConfigError, match="shard_size is 7 and was 4; leave them out"):
        ADDITIONS[add](paths[1:], tmp_path / "out", {"shard_size": 7})


@pytest.mark.parametrize("add", ["call", "steps"])
def test_arrays_are_added_to_with_other_columns_and_sizes_but_not_another_codec(toys, toy, tmp_path, add):
    paths = toys(a={"n": 5})
    create_shards_from_arrays(tmp_path / "out", {"y": np.ones((5, 2))}, shard_size=3, codec="npy")

    with pytest.raises(ConfigError, match="codec is 'pyd' and was 'npy'"):
        ADDITIONS[add](paths, tmp_path / "out", {"codec": "pyd"})
    assert ADDITIONS[add](paths, tmp_path / "out", {"shard_size": 10})["total_samples"] == 10
    assert {column["name"]: column["codec"] for column in manifest(tmp_path / "out")["columns"]}["x"] == "npy"


def test_an_interrupted_addition_is_finished_before_another(toys, toy, tmp_path, monkeypatch):
    paths = toys(a={"n": 5}, b={"n": 9})
    convert_inputs(paths[:1], tmp_path / "out", CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr("neurofm_shards.convert.commit.commit_manifest", None)
        with pytest.raises(TypeError):
            convert_inputs(paths, tmp_path / "out", mode="append")
    with pytest.raises(ConfigError, match="an addition to .* was interrupted"):
        one_by_one(paths, tmp_path / "out", CONFIG)


def test_options_are_checked_before_anything_is_locked(tmp_path):
    with pytest.raises(LookupError, match="smoke-signals"):
        ConversionSession(tmp_path / "out", {"codec": "smoke-signals"})
    assert not (tmp_path / "out").exists()
