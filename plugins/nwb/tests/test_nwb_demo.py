"""The made-up session is a valid NWB file, the same for the same seed, and worth decoding."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.registry import registry
from neurofm_shards_nwb.demo import write_demo_session
from neurofm_shards_nwb.source import NwbSource


def read_all(path):
    with NwbSource().open((str(path),)) as recording:
        streams = {stream.path: stream for stream in recording.streams}
        times, owner = streams["units"].read()
        velocity = streams["processing/behavior/Velocity/hand_velocity"]
        lfp = streams["processing/ecephys/LFP/lfp"]
        return times, owner, velocity.read(0, velocity.shape[0]), lfp.read(0, lfp.shape[0]) * lfp.scale, streams


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "demo.nwb"
    write_demo_session(path, seconds=120, seed=1)
    return path


def test_it_passes_pynwbs_own_validation_and_says_that_it_is_synthetic(session):
    import pynwb

    assert not pynwb.validate(path=session)
    with pynwb.NWBHDF5IO(session, "r") as io:
        assert io.read().session_description.startswith("SYNTHETIC")


def test_the_same_seed_gives_the_same_session_and_another_another(session, tmp_path):
    for seed in (1, 2):
        write_demo_session(tmp_path / f"{seed}.nwb", seconds=120, seed=seed)
    first, again, other = (read_all(path)[:4] for path in (session, tmp_path / "1.nwb", tmp_path / "2.nwb"))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_it_has_everything_a_session_has(session):
    streams = read_all(session)[4]
    assert {stream.modality for stream in streams.values()} == {"spikes", "lfp", "behavior", "trials"}
    velocity = streams["processing/behavior/Velocity/hand_velocity"]
    assert (velocity.unit, velocity.channels) == ("cm/s", ("x", "y"))
    assert len(streams["units"].owners) == 40


def test_velocity_can_be_decoded_from_counts_on_held_out_time(session):
    times, owner, velocity, _, _ = read_all(session)
    bins, width = 2400, 0.05
    counts = np.zeros((bins, 40))
    np.add.at(counts, (np.minimum((times / width).astype(int), bins - 1), owner), 1)
    target = velocity[: bins * 10].reshape(bins, 10, 2).mean(axis=1)
    inputs = np.concatenate([counts[:-2], counts[1:-1], counts[2:], np.ones((bins - 2, 1))], axis=1)
    target, cut = target[2:], int(0.8 * bins)
    weights = np.linalg.lstsq(inputs[:cut], target[:cut], rcond=None)[0]
    residual = target[cut:] - inputs[cut:] @ weights
    r2 = 1 - (residual**2).sum() / ((target[cut:] - target[cut:].mean(axis=0)) ** 2).sum()
    assert r2 > 0.5


def test_the_rhythm_is_at_20_hz(session):
    lfp = read_all(session)[3][:, 0]
    power = np.abs(np.fft.rfft(lfp.reshape(-1, 1000), axis=1)).mean(axis=0)
    frequencies = np.fft.rfftfreq(1000, 1 / 500)
    band = (frequencies > 10) & (frequencies < 100)
    assert frequencies[band][power[band].argmax()] == pytest.approx(20, abs=0.5)


def test_a_session_without_room_for_a_reach_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least 10 seconds"):
        write_demo_session(tmp_path / "short.nwb", seconds=1)


def test_the_command_runs_the_whole_path(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command = registry().commands.get("demo").make()
    command.add_arguments(parser)
    command.run(parser.parse_args(["-o", str(tmp_path), "--seconds", "30", "--steps", "2", "--json"]))
    found = json.loads(capsys.readouterr().out)
    assert found["findings"] == 0
    assert (found["steps"], found["train_windows"]) == (2, 47)
    assert (tmp_path / "shards" / "dataset_metadata.json").exists()
