"""Behaviour at its own samples, compared with plain loops over the stamps.

Broken on purpose, each of these is caught here: a sample at a window's stop that is taken in, one at its start that is
left out, stamps that are used in the file's order, values that are read by the wrong row.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from neurofm_shards.errors import ConfigError
from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import events, irregular, regular
from neurofm_shards.types import Ragged

BIN_MS = 10
SPIKES = events("units", {"1": np.array([0.0, 1.0, 9.99])})


def cut(streams, **options):
    said = {"bin_size_ms": BIN_MS, "sequence_length": 50, "overlap": 0.0, "extent": (0.0, 10.0), **options}
    return windowed(InMemoryRecording(streams, session_id="s"), WindowOptions.model_validate(said))


def by_hand(stamps, values, start, stop):
    """Return seconds since the start, and values, of the samples in a window, in time order and then as stored."""
    inside = [(float(t), i) for i, t in enumerate(stamps) if np.isfinite(t) and start <= round(float(t) * 1e9) < stop]
    inside.sort()
    return [(round(t * 1e9) - start) / 1e9 for t, _ in inside], [values[i] for _, i in inside]


@st.composite
def stamped(draw):
    """Stamps that fall on the edges of windows, repeat, go back, and are not a number."""
    edges = st.integers(0, 20).map(lambda i: i * 0.5)
    near = st.tuples(edges, st.sampled_from([-1e-9, 1e-9, -4e-10, 4e-10])).map(sum)
    anywhere = st.floats(-1.0, 11.0)
    stamps = draw(st.lists(st.one_of(edges, near, anywhere, st.just(float("nan"))), min_size=2, max_size=60))
    stamps += [0.25, 0.31]  # something inside
    return np.array(draw(st.permutations(stamps)))


@given(stamps=stamped(), stride=st.integers(1, 60), scattered=st.booleans(), data=st.data())
def test_samples_are_those_whose_stamp_lies_in_the_window(stamps, stride, scattered, data):
    values = np.arange(2.0 * len(stamps)).reshape(-1, 2)
    series = irregular("processing/pos", values, stamps, unit="cm", scale=0.5)
    samples = cut([SPIKES, series], stride=stride, overlap=0.5, behavior=[{"path": "pos", "at": "samples"}])
    starts, stops = samples.cut.starts, samples.cut.stops
    if scattered:
        rows = np.array(data.draw(st.permutations(range(len(starts)))))
        found = samples.gather(starts[rows], stops[rows], {"pos_values", "pos_times", "pos_features"}, rows)
    else:
        rows = np.arange(len(starts))
        found = samples.read(0, len(starts)).columns
    assert isinstance(found["pos_values"], Ragged)
    for i, row in enumerate(rows):
        times, expected = by_hand(stamps, values * 0.5, int(starts[row]), int(stops[row]))
        assert found["pos_values"][i].tolist() == [value.tolist() for value in expected]
        np.testing.assert_allclose(found["pos_times"][i], times, atol=3e-8)
        assert (found["pos_times"][i] < 0.5).all()
        assert found["pos_features"][i].tolist() == [0, 1]


@given(rate=st.sampled_from([7.0, 100.0, 1000 / 3]), t0=st.sampled_from([0.0, 0.013, -0.2, 3.333333333]))
def test_a_constant_rate_gives_its_samples_and_counts_stand_beside_them(rate, t0):
    values = np.arange(int(rate * 9), dtype=np.int16)
    series = regular("a/wheel", values, rate, t0, modality="behavior", unit="cm/s", scale=0.1)
    samples = cut([SPIKES, series], behavior=[{"path": "wheel", "at": "samples"}], modalities=["spikes", "behavior"])
    block = samples.read(0, len(samples.cut))
    assert block.columns["spikes"].sum() == 3
    assert "behavior" not in block.columns
    stamps = t0 + np.arange(len(values)) / rate
    for i, start in enumerate(samples.cut.starts.tolist()):
        times, expected = by_hand(stamps, values, start, start + 500_000_000)
        np.testing.assert_allclose(block.columns["wheel_times"][i], times, atol=3e-8)
        np.testing.assert_allclose(block.columns["wheel_values"][i][:, 0], np.array(expected) * 0.1, rtol=1e-6)


def test_it_stands_beside_behaviour_at_bins_with_a_table_of_its_own():
    stamps = np.arange(0, 10, 0.03)
    walk = irregular("p/walk", np.stack([stamps, -stamps], 1), stamps, channels=("x", "y"), unit="cm")
    speed = irregular("p/speed", stamps[:, None], stamps, unit="cm/s")
    chosen = [
        {"path": "walk", "at": "samples", "columns": ["y"]},
        {"path": "p/speed"},
        {"path": "speed", "at": "samples"},
    ]
    samples = cut([walk, speed], behavior=chosen)
    columns = samples.read(0, 3).columns
    assert {"behavior", "behavior_valid", "walk_values", "walk_times", "speed_values"} <= set(columns)
    tables = samples.plan().tables
    assert [row["id"] for row in tables["sample_features"]] == ["s/p/walk/y", "s/p/speed/0"]
    assert [row["unit"] for row in tables["sample_features"]] == ["cm", "cm/s"]
    assert columns["speed_features"].tolist() == [[1]] * 3
    assert [row["id"] for row in tables["features"]] == ["s/p/speed/0"]
    np.testing.assert_allclose(columns["walk_values"][1][:, 0], -0.5 - columns["walk_times"][1], atol=1e-6)


def test_what_a_session_lacks_is_empty():
    speed = irregular("p/speed", np.arange(1000.0)[:, None], np.arange(1000) / 100)
    chosen = [{"path": "walk", "at": "samples"}, {"path": "speed", "at": "samples"}, {"path": "angle"}]
    options = {"behavior": chosen, "missing": "mask", "modalities": ["spikes", "behavior"]}
    some = cut([SPIKES, speed], **options).read(0, 4).columns
    none = cut([SPIKES], **options).read(0, 4).columns
    assert set(some) == set(none)
    assert len(some["walk_values"].values) == 0
    assert some["walk_values"].values.shape == (0, 0)
    assert some["behavior"].shape == (4, 50, 0)
    assert len(some["speed_values"][2]) == 50
    assert len(none["speed_values"][2]) == 0


def test_values_that_are_not_sure_enough_are_not_a_number():
    stamps = np.arange(0, 10, 0.1)
    values = np.stack([stamps, (np.arange(100) % 2) * 1.0], 1)
    pose = irregular("pose/nose", values, stamps, channels=("x", "likelihood"), confidence="likelihood")
    chosen = [{"path": "nose", "at": "samples", "columns": ["x"], "min_confidence": 0.5}]
    found = cut([pose], behavior=chosen).read(0, 1).columns["nose_values"][0]
    assert np.isnan(found[::2]).all()
    assert np.isfinite(found[1::2]).all()


@pytest.mark.parametrize("option", [{"kind": "step"}, {"wrap": (0, 1)}, {"max_gap_ms": 5}])
def test_options_of_interpolation_are_refused(option):
    with pytest.raises(ValidationError, match=f"leave {next(iter(option))} out"):
        WindowOptions.model_validate({"behavior": [{"path": "a", "at": "samples", **option}]})


def test_events_have_no_samples():
    licks = events("licks", {"0": np.array([1.0])}, modality="behavior")
    with pytest.raises(ConfigError, match="holds no samples"):
        cut([SPIKES, licks], behavior=[{"path": "licks", "at": "samples"}])
