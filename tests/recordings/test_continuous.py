"""LFP and imaging in windows, against plain slices and ``scipy.signal.resample_poly`` of the whole segment.

Broken on purpose, each of these is caught here: the scale or offset forgotten, channel scales not following a choice
of channels, windows that begin one sample late, interpolation across a gap, block edges that leak into values (filter
overlap left out), zeros taken for data at a segment's ends.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings import InMemoryRecording, RegularStream, SeriesOptions, WindowOptions, windowed
from neurofm_shards.recordings.continuous import WindowedSeries
from neurofm_shards.recordings.memory import events, intervals, irregular, regular
from neurofm_shards.recordings.timeline import TimeGrid, Timeline

signal = pytest.importorskip("scipy.signal")
rng = np.random.default_rng(0)


def lfp(samples=2000, channels=3, rate=500.0, t0=0.0, **more):
    values = rng.integers(-500, 500, (samples, channels)).astype(np.int16)
    return regular("lfp", values, rate, t0, unit="V", **more), values


def read_all(streams, **options):
    samples = windowed(InMemoryRecording(streams), WindowOptions(**options))
    return samples.plan(), samples.read(0, samples.plan().num_samples)


def test_stored_samples_are_cut_and_scaled_to_volts():
    stream, values = lfp(scale=9.375e-6)
    plan, block = read_all([stream], overlap=0)
    assert block.columns["lfp"].dtype == np.float32
    np.testing.assert_allclose(block.columns["lfp"], (values * 9.375e-6).reshape(4, 500, 3), rtol=3e-7)
    assert block.columns["lfp_valid"].all()
    assert plan.columns[0].unit == "V"


def test_scale_and_offset_of_each_channel_follow_a_choice_of_channels():
    scale, offset = np.array([1e-6, 2e-6, 3e-6]), np.array([0.0, 1e-3, -1e-3])
    stream, values = lfp(scale=scale, offset=offset, channels=3)
    stream = type(stream)(**{**stream.__dict__, "channels": ("x", "y", "z"), "table": [{"depth": i} for i in range(3)]})
    plan, block = read_all([stream], overlap=0, lfp={"channels": ("z", "x")})
    wanted = (values * scale + offset)[:, [2, 0]].reshape(4, 500, 2)
    np.testing.assert_allclose(block.columns["lfp"], wanted, rtol=1e-6)
    assert [(row["channel"], row["depth"]) for row in plan.tables["channels"]] == [("z", 2), ("x", 0)]
    with pytest.raises(ConfigError, match="no 'q'; present: x, y, z"):
        read_all([stream], lfp={"channels": ("q",)})


def test_units_of_measure_are_a_choice():
    stream, values = lfp(scale=2e-6)
    np.testing.assert_allclose(
        read_all([stream], lfp={"units": "uV"})[1].columns["lfp"][0], values[:500] * 2.0, rtol=1e-6
    )
    np.testing.assert_array_equal(read_all([stream], lfp={"units": "raw"})[1].columns["lfp"][0], values[:500])
    for unit, factor in {"mV": 1e3, "millivolts": 1e3, "uV": 1.0, "\u00b5V": 1.0, "microvolt": 1.0}.items():
        own = regular("lfp", values, 500.0, unit=unit, scale=2.0)
        _, block = read_all([own], lfp={"units": "uV"})
        np.testing.assert_allclose(block.columns["lfp"][0], values[:500] * 2.0 * factor, rtol=1e-6)
    degrees = regular("lfp", values, 500.0, unit="degrees")
    with pytest.raises(SourceError, match="not a voltage"):
        read_all([degrees], lfp={"units": "uV"})


def test_integers_without_a_scale_are_reported_as_uncalibrated():
    stream, _ = lfp(calibrated=False)
    assert any("uncalibrated" in problem.consequence for problem in read_all([stream])[0].problems)


@settings(max_examples=30, deadline=None)
@given(
    offset=st.integers(-3, 700),
    stride=st.integers(1, 7),
    block_bytes=st.sampled_from([100, 3000, 1 << 26]),
)
def test_a_window_holds_the_samples_from_its_start_on_whatever_the_block_size(offset, stride, block_bytes):
    stream, values = lfp(samples=900, rate=1000.0)
    frame = TimeGrid("s", Timeline(0, 10**9, ""), 10, 10_000_000)
    cut = WindowedSeries(stream, frame, SeriesOptions(), name="lfp", drop_gaps=True, block_bytes=block_bytes)
    starts = (offset + np.arange(20) * stride * 3) * 1_000_000
    columns = cut.read(starts, starts + frame.window_ticks)
    for i, start in enumerate(starts // 1_000_000):
        there = [k for k in range(start, start + 100) if 0 <= k < 900]
        wanted = np.full((100, 3), np.nan, dtype=np.float32)
        wanted[[k - start for k in there]] = values[there]
        np.testing.assert_array_equal(columns["lfp"][i], wanted)
        np.testing.assert_array_equal(columns["lfp_valid"][i], np.isfinite(wanted[:, 0]))


@settings(max_examples=25, deadline=None)
@given(rates=st.sampled_from([(500.0, 100.0), (500.0, 400.0), (500.0, 750.0), (2500.0, 1000.0), (1000.0, 30.0)]))
def test_resampling_is_that_of_scipy_over_the_whole_segment(rates):
    stored, target = rates
    values = rng.normal(size=(int(4 * stored), 2))
    _, block = read_all([regular("lfp", values, stored)], overlap=0, lfp={"rate": target})
    from fractions import Fraction

    ratio = Fraction(target / stored).limit_denominator(1000)
    wanted = signal.resample_poly(values, ratio.numerator, ratio.denominator, axis=0)
    edge = 11 * max(1, int(np.ceil(target / stored)))
    got = block.columns["lfp"].reshape(-1, 2)
    np.testing.assert_allclose(got[edge:-edge], wanted[edge:-edge], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block_bytes", [700, 5000, 40_000])
def test_resampled_values_do_not_depend_on_the_block_size(block_bytes):
    stream = regular("lfp", rng.normal(size=(5000, 3)), 1000.0)
    frame = TimeGrid("s", Timeline(0, 5 * 10**9, ""), 10, 10_000_000)
    starts = np.arange(40) * 100_000_000
    whole, parts = (
        WindowedSeries(stream, frame, SeriesOptions(rate=300), name="lfp", drop_gaps=True, block_bytes=size).read(
            starts, starts + frame.window_ticks
        )["lfp"]
        for size in (1 << 26, block_bytes)
    )
    np.testing.assert_array_equal(whole, parts)


def test_a_constant_stays_constant_to_the_very_end_when_resampled():
    _, block = read_all([regular("lfp", np.full((4000, 1), 3.0), 1000.0)], overlap=0, lfp={"rate": 250})
    np.testing.assert_allclose(block.columns["lfp"], 3.0, rtol=1e-3)


def test_high_frequencies_are_filtered_away_and_low_ones_stay():
    times = np.arange(8000) / 2000.0
    values = np.stack([np.sin(2 * np.pi * 7 * times), np.sin(2 * np.pi * 430 * times)], axis=1)
    _, block = read_all([regular("lfp", values, 2000.0)], overlap=0, lfp={"rate": 200})
    got = block.columns["lfp"].reshape(-1, 2)[100:-100]
    wanted = np.sin(2 * np.pi * 7 * np.arange(800) / 200)[100:-100]
    np.testing.assert_allclose(got[:, 0], wanted, atol=2e-3)
    assert np.abs(got[:, 1]).max() < 0.01


def test_a_rate_that_does_not_fit_into_a_window_is_refused():
    with pytest.raises(ConfigError, match="whole number"):
        read_all([lfp()[0]], lfp={"rate": 333.3})
    with pytest.raises(ConfigError, match="holds no sample"):
        read_all([regular("roi", np.zeros((20, 2)), 0.5, modality="ophys")])


def stamped(gaps, samples=1000, rate=100.0):
    """Values 0, 1, 2, ... with a jump in the time stamps behind each of ``gaps``."""
    times = np.arange(samples) / rate
    for at, seconds in gaps:
        times[at:] += seconds
    return irregular("lfp", np.arange(samples, dtype=float)[:, None], times, modality="lfp"), times


def test_regular_time_stamps_give_the_stored_samples():
    jitter = rng.uniform(-0.002, 0.002, 1000)
    stream = irregular("lfp", np.arange(1000.0)[:, None], np.arange(1000) / 100 + jitter + 5, modality="lfp")
    _, block = read_all([stream], overlap=0)
    np.testing.assert_array_equal(np.diff(block.columns["lfp"][:, :, 0], axis=1), 1.0)


def test_no_window_crosses_a_gap():
    stream, _ = stamped([(400, 2.5)])
    plan, block = read_all([stream], overlap=0)
    assert plan.drops["gap in lfp"] >= 2
    assert not plan.problems, "between gaps the clock is regular"
    np.testing.assert_array_equal(np.diff(block.columns["lfp"][:, :, 0], axis=1), 1.0)
    starts = [said["window_start_s"] for said in block.metadata]
    assert not any(4.0 <= start < 6.5 or start < 4.0 < start + 1 for start in starts)


def test_gaps_can_be_masked_instead():
    stream, _ = stamped([(430, 0.5)])
    _, block = read_all([stream], overlap=0, gaps="mask")
    values, mask = block.columns["lfp"][4, :, 0], block.columns["lfp_valid"][4]
    assert np.flatnonzero(~mask).tolist() == list(range(30, 80))
    assert np.isnan(values[~mask]).all()
    np.testing.assert_array_equal(values[mask], np.arange(400, 450))


@given(st.lists(st.floats(0, 10), max_size=40))
def test_steps_are_found_in_parts_as_at_once(times):
    stamps = np.array(times)
    from neurofm_shards.recordings import series

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "_STAMPS_AT_ONCE", 7)
        found = series.steps_where(stamps, lambda steps: steps > 1)
    assert found.tolist() == np.flatnonzero(np.diff(stamps) > 1).tolist()


def test_resampling_without_scipy_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.signal", None)
    with pytest.raises(ConfigError, match=r"pip install .neurofm-shards\[resample\]"):
        read_all([lfp()[0]], lfp={"rate": 100})
    assert read_all([lfp()[0]], lfp={"rate": 500})[0].num_samples == 7


def test_resampling_never_reaches_across_a_gap():
    values = np.concatenate([np.zeros(500), np.full(500, 100.0)])[:, None]
    times = np.concatenate([np.arange(500), np.arange(500) + 600]) / 100
    stream = irregular("lfp", values, times, modality="lfp")
    _, block = read_all([stream], overlap=0, gaps="mask", lfp={"rate": 50})
    got = block.columns["lfp"][block.columns["lfp_valid"]][:, 0]
    assert set(np.round(got, 1).tolist()) == {0.0, 100.0}


def test_time_stamps_off_the_clock_are_interpolated_and_reported(reference):
    times = np.cumsum(rng.uniform(0.002, 0.018, 900))
    values = rng.normal(size=900)
    stream = irregular("lfp", values[:, None], times, modality="lfp")
    options = SeriesOptions(rate=100, max_gap_ms=50)
    plan, block = read_all([stream], overlap=0, lfp=options, gaps="mask")
    assert any("half a sample" in problem.what for problem in plan.problems)
    origin = plan.metadata["origin_s"]
    got = block.columns["lfp"][:, :, 0].ravel()
    wanted = [reference.between(times, values, origin + k / 100, 0.05) for k in range(len(got))]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_time_stamps_that_go_back_or_are_not_a_number_are_sorted_and_reported():
    times = np.arange(300) / 100
    times[[10, 20]] = times[[20, 10]]
    times[50] = np.nan
    values = np.arange(300.0)
    values[[10, 20]] = values[[20, 10]]
    plan, block = read_all(
        [irregular("lfp", values[:, None], times, modality="lfp")], overlap=0, lfp={"max_gap_ms": 50}
    )
    assert any("1 time stamp not a number" in problem.what for problem in plan.problems)
    np.testing.assert_allclose(block.columns["lfp"][:2, :, 0].ravel(), np.arange(200), atol=1e-4)


@pytest.mark.parametrize("stamps", [[2.0], [2.0, 2.0, 2.0, 2.0, 3.0]])
def test_time_stamps_that_say_no_rate_need_one_and_invent_no_samples(stamps):
    stream = irregular("lfp", np.ones((len(stamps), 2)), stamps, modality="lfp")
    spikes = events("units", {"a": np.arange(0, 10, 0.01)})
    with pytest.raises(SourceError, match=r"no rate follows from .* say lfp\.rate"):
        read_all([stream, spikes], overlap=0)
    _, block = read_all([stream, spikes], overlap=0, lfp={"rate": 100.0}, gaps="mask")
    assert block.columns["lfp_valid"].sum() == len(set(stamps))
    assert np.isfinite(block.columns["lfp"]).sum() == 2 * len(set(stamps))


def test_parts_that_do_not_fit_together_are_errors():
    with pytest.raises(SourceError, match="3 time stamps for 4 samples"):
        read_all([irregular("lfp", np.zeros((4, 1)), np.arange(3.0), modality="lfp")])
    with pytest.raises(SourceError, match="2 channel ids for 3 channels"):
        read_all([lfp(channels=3)[0].__class__(**{**lfp()[0].__dict__, "channels": ("a", "b")})])
    with pytest.raises(SourceError, match="2 scales for 3 channels"):
        read_all([lfp(scale=np.ones(2))[0]])


def test_a_series_that_ends_early_is_an_error_at_reading():
    short = RegularStream(
        path="lfp", modality="lfp", shape=(2000, 1), dtype="<f4", rate=500.0, t0=0.0, read=lambda *_: np.zeros((3, 1))
    )
    with pytest.raises(SourceError, match="shorter than it says, or changed"):
        read_all([short])


def test_several_series_are_a_choice_and_raw_is_never_taken_for_lfp():
    streams = [lfp()[0], regular("probe2/lfp", np.zeros((2000, 2)), 500.0)]
    with pytest.raises(SourceError, match=r"2 lfp series: lfp \(shape \(2000, 3\), 500 Hz.*lfp.path"):
        read_all(streams)
    assert read_all(streams, lfp={"path": "probe2/lfp"})[1].columns["lfp"].shape[2] == 2
    raw = regular("acquisition/ap", np.zeros((2000, 2)), 500.0, modality="raw")
    unit = events("units", {"a": [0.1]})
    with pytest.raises(SourceError, match="acquisition/ap is never taken for LFP unless lfp.path names it"):
        read_all([raw, unit], modalities=("spikes", "lfp"))
    assert "lfp" not in read_all([raw, unit])[1].columns
    assert "lfp" in read_all([raw, unit], lfp={"path": "ap"})[1].columns


def test_imaging_is_time_by_region():
    frames = rng.normal(size=(2000, 219))
    plan, block = read_all([regular("ophys/F", frames, 10.0, modality="ophys")], overlap=0)
    np.testing.assert_allclose(block.columns["ophys"][3], frames[30:40], rtol=1e-6)
    assert plan.tables["rois"][218]["channel"] == "218"
    assert plan.columns[2].table == "rois"


def test_reading_in_any_order_gives_the_same():
    stream, _ = lfp(samples=5000)
    spikes = events("units", {"a": np.sort(rng.random(300) * 10)})
    options = WindowOptions(lfp=SeriesOptions(rate=200))
    samples = windowed(InMemoryRecording([stream, spikes]), options)
    whole = samples.read(0, samples.plan().num_samples)
    for start, stop in [(5, 9), (0, 3), (7, 8), (3, 3), (0, len(whole))]:
        part = samples.read(start, stop)
        assert part.metadata == whole.metadata[start:stop]
        for name, values in part.columns.items():
            np.testing.assert_array_equal(values, whole.columns[name][start:stop])


def test_intervals_alone_hold_nothing_to_convert():
    with pytest.raises(SourceError, match="nothing to convert: looked for spikes"):
        windowed(InMemoryRecording([intervals("trials", [0.0], [1.0])]), WindowOptions())


def test_several_series_stand_side_by_side():
    streams = [
        regular("a", np.arange(2000.0).reshape(1000, 2), 100.0, modality="lfp"),
        regular("b", -np.arange(500.0)[:, None], 100.0, modality="lfp"),
    ]
    options = {"sequence_length": 100, "overlap": 0}
    with pytest.raises(SourceError, match=r"lfp\.path"):
        windowed(InMemoryRecording(streams), WindowOptions(**options))
    choice = [{"path": "b"}, {"path": "a", "channels": ["1"]}]
    samples = windowed(InMemoryRecording(streams), WindowOptions(lfp=choice, **options))
    plan, block = samples.plan(), samples.read(0, 10)
    assert [row["id"] for row in plan.tables["channels"]] == ["session/b/0", "session/a/1"]
    values, mask = np.asarray(block.columns["lfp"]), np.asarray(block.columns["lfp_valid"])
    assert np.array_equal(values[:, :, 1].ravel(), np.arange(1000) * 2 + 1)
    assert np.array_equal(values[:5, :, 0].ravel(), -np.arange(500))
    assert mask[:5].all()
    assert not mask[5:].any()
    assert np.isnan(values[5:, :, 0]).all()
    streams[1] = regular("b", np.zeros((500, 1)), 50.0, modality="lfp")
    with pytest.raises(ConfigError, match="differ in rate"):
        windowed(InMemoryRecording(streams), WindowOptions(lfp=choice, **options))


def test_channels_are_kept_by_what_the_file_says_of_them():
    values = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    table = [{"iscell": [flag, 0.9], "depth": depth} for flag, depth in ((1, 10.0), (0, 20.0), (1, 30.0), (1, np.nan))]
    stream = regular("f", values, 100.0, modality="ophys", table=table, channels=("7", "8", "9", "10"))
    options = {"sequence_length": 100, "overlap": 0}
    chosen = WindowOptions(ophys={"filter": "iscell == 1 and depth > 5"}, **options)
    samples = windowed(InMemoryRecording([stream]), chosen)
    assert [row["channel"] for row in samples.plan().tables["rois"]] == ["7", "9"]
    assert np.array_equal(np.asarray(samples.read(0, 10).columns["ophys"]).reshape(1000, 2), values[:, [0, 2]])
    with pytest.raises(ConfigError, match="there is no column 'cell'"):
        windowed(InMemoryRecording([stream]), WindowOptions(ophys={"filter": "cell == 1"}, **options))
    with pytest.raises(ConfigError, match="none of 4 channels"):
        windowed(InMemoryRecording([stream]), WindowOptions(ophys={"filter": "depth > 99"}, **options))
