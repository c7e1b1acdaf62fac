"""Behaviour at bins and at its own samples, against plain loops.

Broken on purpose, each of these is caught here: interpolation across a gap or next to unknown values, extrapolation
beyond the ends, heading interpolated straight through the wrap, bin ends taken for bin centres, means over closed
bins; a sample at a window's stop that is taken in, one at its start that is left out, stamps that are used in the
file's order, values that are read by the wrong row.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings import BehaviorOptions, InMemoryRecording, IrregularStream, WindowOptions, windowed
from neurofm_shards.recordings.memory import events, intervals, irregular, regular
from neurofm_shards.types import Ragged

TWO_PI = 2 * math.pi


def epochs(start, stop):
    return intervals("epochs", [start], [stop], modality="epochs")


def behavior(stream, seconds=2, start=0.0, **options):
    chosen = (BehaviorOptions(path=stream.path, **options),)
    recording = InMemoryRecording([stream, epochs(start, start + seconds)])
    samples = windowed(recording, WindowOptions(behavior=chosen, overlap=0, sequence_length=50))
    block = samples.read(0, samples.plan().num_samples)
    values, mask = block.columns["behavior"], block.columns["behavior_valid"]
    np.testing.assert_array_equal(mask, np.isfinite(values))
    return values.reshape(-1, values.shape[2])


times_and_values = st.lists(
    st.tuples(st.integers(0, 2000), st.one_of(st.integers(-100, 100), st.just(None))), min_size=1, max_size=40
).map(
    lambda pairs: (
        np.array(sorted({t for t, _ in pairs})) / 1000.0,
        np.array([math.nan if v is None else float(v) for v in dict(sorted(pairs, key=lambda p: p[0])).values()]),
    )
)


@settings(max_examples=60, deadline=None)
@given(data=times_and_values, gap=st.sampled_from([20.0, 150.0, 5000.0]), at=st.sampled_from(["bin_center", "bin_end"]))
def test_interpolation_is_that_of_a_plain_loop(reference, data, gap, at):
    times, values = data
    got = behavior(irregular("x", values[:, None], times), max_gap_ms=gap, at=at)[:, 0]
    shift = 0.005 if at == "bin_center" else 0.01
    wanted = [
        reference.between(times, values, (round(k * 1e7) + shift * 1e9) / 1e9, gap / 1e3) for k in range(len(got))
    ]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(data=times_and_values, gap=st.sampled_from([None, 40.0]))
def test_steps_are_held_as_in_a_plain_loop(reference, data, gap):
    times, values = data
    got = behavior(irregular("x", values[:, None], times, continuity="step"), max_gap_ms=gap)[:, 0]
    for k, value in enumerate(got):
        at = (k * 10_000_000 + 5_000_000) / 1e9
        wanted = reference.held(times, values, at, math.inf if gap is None else gap / 1e3)
        if gap is not None and at > times[-1] and round(at - times[-1], 9) <= gap / 1e3:
            wanted = values[-1]
        np.testing.assert_equal(value, np.float32(wanted))


@settings(max_examples=60, deadline=None)
@given(data=times_and_values)
def test_means_are_those_of_a_plain_loop(reference, data):
    times, values = data
    got = behavior(irregular("x", values[:, None], times), at="bin_mean")[:, 0]
    wanted = [reference.mean(times, values, k * 10_000_000, (k + 1) * 10_000_000) for k in range(len(got))]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_constant_rate_gives_what_its_time_stamps_give():
    values = np.random.default_rng(0).normal(size=(240, 2))
    as_rate = behavior(regular("x", values, 119.8, 0.3, modality="behavior"))
    as_stamps = behavior(irregular("x", values, 0.3 + np.arange(240) / 119.8))
    np.testing.assert_array_equal(as_rate, as_stamps)
    assert np.isnan(as_rate[:30]).all()


def test_heading_turns_the_shorter_way_and_never_leaves_the_circle(reference):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.004, 0.012, 240))
    heading = np.cumsum(rng.normal(0.2, 0.3, 240)) % TWO_PI
    stream = irregular("rz", heading[:, None], times, circular=(0.0, TWO_PI))
    got = behavior(stream)[:, 0]
    known = got[np.isfinite(got)]
    assert ((known >= 0) & (known.astype(np.float64) < TWO_PI)).all()
    wanted = np.array([reference.around(times, heading, (k + 0.5) / 100, 0.1, 0.0, TWO_PI) for k in range(len(got))])
    turn = (got - wanted + math.pi) % TWO_PI - math.pi
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(wanted))
    assert np.nanmax(np.abs(turn)) < 1e-5


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30),
    low=st.sampled_from([0.0, -math.pi, -180.0]),
    at=st.sampled_from(["bin_center", "bin_mean"]),
)
def test_no_circular_value_is_rounded_off_the_circle(values, low, at):
    high = low + (360.0 if low == -180.0 else TWO_PI)
    stream = irregular("a", np.array(values)[:, None], np.arange(len(values)) / 50)
    got = behavior(stream, kind="circular", wrap=(low, high), at=at)
    known = got[np.isfinite(got)].astype(np.float64)
    assert ((known >= low) & (known < high)).all()


def test_the_mean_of_angles_is_taken_on_the_circle():
    stream = irregular("a", [[0.1], [TWO_PI - 0.1]], [0.001, 0.009], circular=(0.0, TWO_PI))
    got = behavior(stream, at="bin_mean")[0, 0]
    assert min(got, TWO_PI - got) < 1e-6


def test_instants_are_seen_in_their_own_bin_only():
    stream = irregular("reward", [[1.0], [2.0], [3.0]], [0.010, 0.012, 0.5], continuity="instantaneous")
    got = behavior(stream)[:, 0]
    assert np.flatnonzero(np.isfinite(got)).tolist() == [1, 50]
    assert got[[1, 50]].tolist() == [2.0, 3.0]


def test_events_can_be_counted_as_behaviour():
    licks = events("licks", {"left": [0.011, 0.015], "right": [1.0]}, modality="events")
    got = behavior(licks, columns=("right", "left"))
    assert got.shape[1] == 2
    assert got[1].tolist() == [0.0, 2.0]
    assert got[100].tolist() == [1.0, 0.0]
    with pytest.raises(ConfigError, match="holds events"):
        behavior(licks, kind="continuous")


def test_before_the_first_and_after_the_last_value_nothing_is_invented():
    got = behavior(irregular("x", np.ones((80, 1)), 0.5 + np.arange(80) / 100))[:, 0]
    known = np.flatnonzero(np.isfinite(got))
    assert (known[0], known[-1]) == (50, 128)


def test_a_step_variable_has_no_mean():
    with pytest.raises(ConfigError, match="bin_mean makes no sense"):
        behavior(irregular("s", [[1.0]], [0.0], continuity="step"), at="bin_mean")


def test_features_of_all_series_stand_side_by_side_with_their_names():
    x = irregular("Position/x", np.full((200, 1), 1.0), np.arange(200) / 100, unit="cm", channels=("x",))
    wheel = regular("wheel", np.full(400, 2), 200.0, modality="behavior")
    text = irregular("state", np.array(["a", "b"]), [0.0, 1.0])
    samples = windowed(InMemoryRecording([x, wheel, text, epochs(0, 2)], session_id="s"), WindowOptions())
    assert samples.read(0, 1).columns["behavior"][0, 40].tolist() == [1.0, 2.0]
    rows = samples.plan().tables["features"]
    assert [(row["id"], row["unit"], row["kind"]) for row in rows] == [
        ("s/Position/x/x", "cm", "continuous"),
        ("s/wheel/0", "", "continuous"),
    ]


def test_a_series_that_cannot_be_used_stops_only_those_who_name_it():
    def broken():
        raise SourceError("file.nwb: bad: 3 time stamps for 4 samples")

    bad = IrregularStream(
        path="bad",
        modality="behavior",
        shape=(4, 1),
        dtype="<f8",
        read=lambda a, b: np.zeros((b - a, 1)),
        timestamps=broken,
    )
    good = irregular("good", np.zeros((100, 1)), np.arange(100) / 100)
    recording = InMemoryRecording([bad, good])
    samples = windowed(recording, WindowOptions(sequence_length=50))
    assert [row["path"] for row in samples.plan().tables["features"]] == ["good"]
    assert any(problem.severity == "error" and problem.where == "bad" for problem in samples.plan().problems)
    with pytest.raises(SourceError, match="3 time stamps for 4 samples"):
        windowed(recording, WindowOptions(behavior=(BehaviorOptions(path="bad"),)))
    with pytest.raises(SourceError, match="3 time stamps for 4 samples"):
        windowed(recording, WindowOptions(modalities=("behavior",)))
    alone = InMemoryRecording([bad, events("units", {"a": np.linspace(0.1, 5, 30)})])
    with pytest.raises(SourceError, match="3 time stamps for 4 samples"):
        windowed(alone)


def test_a_series_without_a_single_time_is_masked_throughout():
    nothing = irregular("gone", np.zeros((3, 1)), [math.nan] * 3)
    assert np.isnan(behavior(nothing)).all()


@pytest.mark.parametrize("at", ["bin_center", "samples"])
def test_values_whose_confidence_is_unknown_are_not_sure_enough(at):
    values = np.stack([np.arange(100.0), np.where(np.arange(100) % 10 == 5, math.nan, 0.9)], axis=1)
    stream = replace(
        irregular("nose", values, np.arange(100) / 100, unit="px"), channels=("x", "sure"), confidence="sure"
    )
    chosen = BehaviorOptions(path="nose", columns=("x",), min_confidence=0.5, at=at)
    samples = windowed(InMemoryRecording([stream, epochs(0, 1)]), WindowOptions(behavior=(chosen,), overlap=0))
    block = samples.read(0, 1)
    found = block.columns["behavior"][0] if at == "bin_center" else block.columns["nose_values"].values
    unknown = np.isnan(found[:99, 0])
    assert unknown.sum() == (20 if at == "bin_center" else 10)  # a bin's middle lies between two samples
    assert unknown[5::10].all()


def test_floats_that_log_changes_of_a_state_are_held_and_reported():
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.2, 1.8, 18))
    stream = irregular("door", np.arange(18.0) % 2, times)
    recording = InMemoryRecording([stream, epochs(0, 20)])
    samples = windowed(recording, WindowOptions(overlap=0, sequence_length=2000))
    found = samples.read(0, 1).columns["behavior"][0, :, 0]
    middles = (np.arange(2000) + 0.5) / 100
    last = np.searchsorted(times, middles, side="right") - 1
    wanted = np.where((last < 0) | (middles > times[-1]), np.nan, last % 2)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))
    assert any("held until the next one" in problem.consequence for problem in samples.plan().problems)
    asked = WindowOptions(overlap=0, sequence_length=2000, behavior=(BehaviorOptions(path="door", kind="continuous"),))
    found = windowed(recording, asked).read(0, 1).columns["behavior"][0, :, 0]
    assert ((found > 0) & (found < 1)).any()


@pytest.mark.parametrize(
    ("values", "times"),
    [
        (np.arange(60.0) % 2, np.arange(60) / 10),
        (np.repeat([0.0, 1.0, 2.0], 20), np.cumsum(np.random.default_rng(0).uniform(0.2, 1.8, 60))),
        (np.arange(60.0) % 2 + 0.5, np.cumsum(np.random.default_rng(0).uniform(0.2, 1.8, 60))),
        (np.arange(60.0), np.cumsum(np.random.default_rng(0).uniform(0.2, 1.8, 60))),
    ],
    ids=["a clock", "the same again", "fractions", "always another"],
)
def test_other_floats_are_measurements(values, times):
    plan = windowed(InMemoryRecording([irregular("x", values, times)]), WindowOptions(overlap=0)).plan()
    assert [row["kind"] for row in plan.tables["features"]] == ["continuous"]


@pytest.mark.parametrize("at", ["bin_center", "samples"])
@pytest.mark.parametrize(("scale", "told"), [(1, False), (1.04, False), (100, True)])
def test_confidence_in_per_cent_is_reported_where_a_least_is_asked_for(at, scale, told):
    values = np.stack([np.arange(100.0), np.linspace(0, scale, 100)], axis=1)
    stream = replace(irregular("nose", values, np.arange(100) / 100), channels=("x", "sure"), confidence="sure")
    chosen = BehaviorOptions(path="nose", columns=("x",), min_confidence=0.5, at=at)
    plan = windowed(InMemoryRecording([stream, epochs(0, 1)]), WindowOptions(behavior=(chosen,))).plan()
    assert any("confidence goes up to 100" in problem.what for problem in plan.problems) == told


def test_confidence_has_no_unit():
    stream = replace(
        irregular("nose", np.ones((9, 2)), np.arange(9.0), unit="px"), channels=("x", "sure"), confidence="sure"
    )
    samples = windowed(InMemoryRecording([stream, epochs(0, 8)]), WindowOptions())
    assert [row["unit"] for row in samples.plan().tables["features"]] == ["px", ""]


def test_long_series_are_read_in_parts_and_give_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 2))
    values[rng.random(4000) < 0.1] = np.nan
    stream = irregular("x", values, np.sort(rng.random(4000)) * 20)
    whole = behavior(stream, seconds=20, max_gap_ms=50)
    monkeypatch.setattr("neurofm_shards.recordings.behavior._VALUES_AT_ONCE", 500)
    np.testing.assert_array_equal(behavior(stream, seconds=20, max_gap_ms=50), whole)


def test_min_valid_fraction_drops_windows_with_too_little_behaviour():
    stream = irregular("x", np.ones((100, 1)), 1.25 + np.arange(100) / 100)
    options = {"overlap": 0, "sequence_length": 50}
    recording = InMemoryRecording([stream, epochs(0, 3)])
    for fraction, wanted in [(0.0, 6), (0.4, 3), (0.9, 1)]:
        plan = windowed(recording, WindowOptions(min_valid_fraction=fraction, **options)).plan()
        assert plan.num_samples == wanted, fraction
        assert sum(plan.drops.values()) == 6 - wanted


@pytest.mark.parametrize("start", [0.0, 1.7e9])
@pytest.mark.parametrize(("missing", "gap"), [(0, 100.0), (2, None)])
def test_a_step_as_long_as_the_longest_is_no_gap_whatever_its_rounding(start, missing, gap):
    rows = np.flatnonzero(np.arange(1000) % 10 >= missing)
    stream = irregular("place", rows.astype(float)[:, None], start + rows / 10)
    values = behavior(stream, seconds=90, start=start, max_gap_ms=gap)
    assert np.isfinite(values[rows[0] * 10 :]).all()  # bins of 10 ms


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
