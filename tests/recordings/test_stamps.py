"""Time stamps in another unit are refused, or taken as is said; those that blocks of samples share are spread."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import events, irregular, regular
from neurofm_shards.recordings.stamps import spread_blocks

VALUES = np.sin(np.arange(3000) / 20)
UNITS = events("units", {"a": np.sort(np.random.default_rng(0).uniform(0, 30, 900))})


def found(times, *more, **options):
    recording = InMemoryRecording([irregular("x", VALUES, times), *more])
    options = {"behavior": [{"path": "x"}], "modalities": ["behavior"], "sequence_length": 100, "overlap": 0, **options}
    samples = windowed(recording, WindowOptions(**options))
    plan = samples.plan()
    return plan, np.asarray(samples.read(0, plan.num_samples).columns["behavior"]).ravel()


@pytest.mark.parametrize(
    ("times", "more"),
    [
        (np.arange(3000), (UNITS,)),
        (np.arange(3000) * 10, (UNITS,)),
        (np.arange(3000) * 10, ()),
        (np.arange(3000) * 10_000, ()),
    ],
)
def test_sample_numbers_milliseconds_and_microseconds_are_refused_with_the_option(times, more):
    with pytest.raises(SourceError, match=r"x: all its time stamps are whole numbers.*series_times="):
        found(times, *more)


@pytest.mark.parametrize(
    ("times", "meant"),
    [(np.arange(3000), 100.0), (np.arange(3000) * 10, "milliseconds"), (np.arange(3000) * 10_000, "microseconds")],
)
def test_the_option_says_what_is_meant(times, meant):
    plan, values = found(times, series_times=meant)
    assert plan.num_samples == 30
    at = np.arange(3000) / 100 + 0.005
    known = np.isfinite(values)
    assert known.mean() > 0.99
    assert np.allclose(values[known], np.interp(at, np.arange(3000) / 100, VALUES)[known], atol=1e-5)


def test_a_series_alone_whose_stamps_are_one_apart_is_reported():
    plan, _ = found(np.arange(3000))
    assert plan.num_samples == 2999
    assert any("series_times" in problem.consequence for problem in plan.problems)


def test_whole_seconds_that_fit_the_rest_of_the_recording_are_seconds():
    long = events("units", {"a": np.sort(np.random.default_rng(0).uniform(0, 3000, 90_000))})
    plan, _ = found(np.arange(3000), long)
    assert plan.metadata["extent_s"][1] == pytest.approx(3000, abs=1)


def test_a_series_that_nobody_asks_for_does_not_stop_the_others():
    streams = [UNITS, irregular("x", VALUES, np.arange(3000) * 10_000, modality="other")]
    plan = windowed(InMemoryRecording(streams), WindowOptions(sequence_length=100, overlap=0)).plan()
    assert plan.num_samples == 29
    assert any(problem.where == "x" and problem.severity == "error" for problem in plan.problems)


@pytest.mark.parametrize("factor", [1e3, 1e6], ids=["milliseconds", "microseconds"])
def test_stamps_that_last_a_thousand_times_as_long_as_the_rest_are_refused(factor):
    times = np.arange(3000) * 0.01 * factor + 0.3
    with pytest.raises(SourceError, match=r"x: its time stamps last .* times as long as all else.*series_times="):
        found(times, UNITS)
    meant = {1e3: "milliseconds", 1e6: "microseconds"}[factor]
    plan, values = found(times, UNITS, series_times=meant)
    known = np.isfinite(values)
    assert known.mean() > 0.99
    bins = plan.metadata["origin_s"] + (np.arange(len(values)) + 0.5) / 100
    assert np.allclose(values[known], np.interp(bins, times / factor, VALUES)[known], atol=1e-5)


def test_slow_series_that_last_as_long_as_they_should_are_seconds():
    long = events("units", {"a": np.sort(np.random.default_rng(0).uniform(0, 9000, 90_000))})
    times = np.arange(3000) * 10.1 + 0.3
    plan, _ = found(times, long)
    assert plan.metadata["extent_s"][1] == pytest.approx(times[-1], abs=11)


LICKS = np.round(np.linspace(2000, 28_000, 40))


def licks(times, *more, **options):
    streams = [events("licks", {"l": times}, modality="behavior"), *more]
    options = {"modalities": ["behavior"], "sequence_length": 100, "overlap": 0, **options}
    return windowed(InMemoryRecording(streams), WindowOptions(**options)).plan()


@pytest.mark.parametrize("times", [LICKS, LICKS + 0.25], ids=["whole", "not whole"])
def test_events_in_milliseconds_are_refused_until_the_option_says_so(times):
    with pytest.raises(SourceError, match=r"licks: .*series_times="):
        licks(times, UNITS)
    plan = licks(times, UNITS, series_times="milliseconds")
    assert plan.metadata["extent_s"][1] < 31
    assert licks(times / 1000, UNITS).metadata["extent_s"] == plan.metadata["extent_s"]


def test_events_at_whole_seconds_of_the_recording_are_believed():
    assert licks(np.arange(2.0, 26.0), UNITS).num_samples == 29
    assert licks(np.arange(2.0, 26.0)).num_samples > 0


@pytest.mark.parametrize("factor", [1e3, 1e6], ids=["milliseconds", "microseconds"])
def test_spikes_that_last_a_thousand_times_as_long_as_the_rest_are_refused(factor):
    times = np.sort(np.random.default_rng(0).uniform(0, 30, 900)) * factor
    streams = [events("units", {"a": times, "b": times[::3]}), irregular("x", VALUES, np.arange(3000) / 100)]
    with pytest.raises(SourceError, match=r"units: its times last .* as long as all else.*suspicious_spike_times="):
        windowed(InMemoryRecording(streams), WindowOptions(modalities=("spikes",)))
    plan = windowed(InMemoryRecording(streams), WindowOptions(modalities=("behavior",), sequence_length=100)).plan()
    assert plan.metadata["extent_s"][1] < 31
    allowed = WindowOptions(suspicious_spike_times="allow", bin_size_ms=1e4)
    assert windowed(InMemoryRecording(streams), allowed).plan().metadata["extent_s"][1] > 29 * factor


def test_spikes_far_longer_than_the_rest_that_are_not_rare_are_seconds():
    snippet = irregular("x", VALUES[:300], np.arange(300) / 100)
    long = events("units", {"a": np.sort(np.random.default_rng(0).uniform(0, 3000, 9000))})
    assert windowed(InMemoryRecording([long, snippet]), WindowOptions()).plan().metadata["extent_s"][1] > 2990


@pytest.mark.parametrize("size", [2, 3, 100])
def test_samples_of_blocks_that_share_a_stamp_are_spread_and_reported(size):
    times = 7 + np.arange(3000) / 100
    shared = times[np.arange(3000) // size * size]
    plan, values = found(shared, sequence_length=100)
    alone, wanted = found(times, sequence_length=100)
    assert plan.num_samples == alone.num_samples
    assert np.isfinite(values).sum() == 2999  # the middle of the last bin lies behind the last sample
    np.testing.assert_allclose(values, wanted, atol=1e-4)
    (said,) = [problem for problem in plan.problems if "blocks of" in problem.what]
    assert (said.where, said.severity) == ("x", "warning")
    assert f"blocks of {size}, one every {size / 100:.4g} s" in said.what
    assert (
        f"at 100 Hz from each stamp on, as that of a block's first sample; {(size - 1) / 100:.4g} s" in said.consequence
    )


def test_a_series_in_blocks_has_its_rate_as_lfp():
    values = np.random.default_rng(0).normal(size=(4000, 2))
    stream = irregular("raw", values, np.repeat(np.arange(40) / 10, 100), modality="lfp")
    samples = windowed(InMemoryRecording([stream]), WindowOptions(modalities=("lfp",), overlap=0))
    plan = samples.plan()
    assert plan.metadata["modalities"]["lfp"]["rate_hz"] == pytest.approx(1000)
    assert np.array_equal(samples.read(0, 4).columns["lfp"].reshape(-1, 2), values.astype(np.float32))


def test_blocks_keep_to_their_stamps_across_jitter_pauses_and_a_short_end():
    random = np.random.default_rng(0)
    stamps = np.arange(60) * 0.5 + random.uniform(-0.1, 0.1, 60)
    stamps[30:] += 20
    made = spread_blocks(np.repeat(stamps, 50)[:-20])
    lengths = np.diff(stamps, append=np.inf)
    usual = np.median(lengths[:-1])
    lengths = np.where(lengths > 1, usual, lengths)
    wanted = [at + k / 50 * length for at, length in zip(stamps, lengths, strict=True) for k in range(50)]
    assert (made.size, made.period) == (50, usual)
    assert (np.diff(made.times) > 0).all()
    np.testing.assert_allclose(made.times, wanted[:-20], atol=1e-9)
    assert np.array_equal(made.times[::50], stamps)


@pytest.mark.parametrize("times", [
    np.arange(300) / 30,
    np.repeat(np.arange(30.0), np.tile([9, 11], 15)),
    np.repeat(np.cumsum(np.random.default_rng(0).exponential(1, 30)), 10),
    np.append(np.repeat(np.arange(30.0), 10), np.nan),
    np.repeat(np.arange(30.0), 10)[::-1],
    np.repeat([0.0, 1.0], 10),
    np.zeros(300),
    np.zeros(0),
], ids=["own", "uneven", "no clock", "not a number", "backwards", "two", "one", "none"])  # fmt: skip
def test_stamps_that_do_not_tell_a_rate_are_left_as_they_are(times):
    assert spread_blocks(times) is None


@pytest.mark.parametrize(("continuity", "size", "spread"), [
    ("step", 2, False), ("step", 10, True), ("instantaneous", 10, False), ("continuous", 2, True),
])  # fmt: skip
def test_states_and_events_that_come_in_twos_are_at_their_time(continuity, size, spread):
    times = np.repeat(np.arange(0, 30, size / 100), size)
    stream = irregular("x", VALUES[: len(times)] > 0, times, continuity=continuity)
    plan = windowed(InMemoryRecording([stream]), WindowOptions(modalities=("behavior",))).plan()
    assert any("blocks of" in problem.what for problem in plan.problems) == spread


def rated(rate, *more, **options):
    recording = InMemoryRecording([regular("x", VALUES, rate, modality="behavior"), *more])
    options = {"behavior": [{"path": "x"}], "modalities": ["behavior"], "sequence_length": 100, "overlap": 0, **options}
    return windowed(recording, WindowOptions(**options)).plan()


@pytest.mark.parametrize("rate", [0.1, 1 / 90], ids=["in each millisecond", "the period"])
def test_rates_that_make_a_series_hundreds_of_times_as_long_as_the_rest_are_refused(rate):
    with pytest.raises(SourceError, match=r"x: its samples last .* times as long as all else.*series_times="):
        rated(rate, UNITS)
    plan = rated(0.1, UNITS, series_times="milliseconds")
    assert plan.metadata["extent_s"] == pytest.approx([0, 30], abs=0.1)
    assert plan.metadata["valid_share"]["behavior"] > 0.9
    assert rated(rate, UNITS, behavior=None, modalities=["spikes"]).metadata["extent_s"][1] < 31


@pytest.mark.parametrize("samples", [3, 8])
def test_few_stamps_in_another_unit_are_refused_as_many_are(samples):
    times = np.arange(samples) * 8000.5
    stream = irregular("x", VALUES[:samples], times)
    with pytest.raises(SourceError, match=r"x: its time stamps last"):
        windowed(InMemoryRecording([stream, UNITS]), WindowOptions(modalities=("behavior",)))


def test_stamps_at_a_fraction_of_the_clock_are_refused_whatever_the_fraction():
    with pytest.raises(SourceError, match=r"x: its time stamps last 30,0.. times as long"):
        found(np.arange(3000) * 300.25, UNITS)


def test_a_slow_series_with_nothing_to_compare_it_with_is_reported_or_converted():
    times = np.arange(3000) * 16.75 + 0.3
    plan, _ = found(times)
    (said,) = [problem for problem in plan.problems if "series_times" in problem.consequence]
    assert (said.where, said.what) == ("x", "its samples are 16.75 s apart, if its times are seconds")
    plan, _ = found(times, series_times="milliseconds")
    assert plan.metadata["extent_s"][1] == pytest.approx(times[-1] / 1000, abs=0.1)


@pytest.mark.parametrize("name", ["behavior", "lfp"])
def test_a_series_without_one_value_is_reported(name):
    stream = regular("none", np.zeros((0, 3)), 30.0, modality=name)
    plan = windowed(InMemoryRecording([stream, UNITS]), WindowOptions()).plan()
    assert ("none", "holds no value at all") in [(problem.where, problem.what) for problem in plan.problems]
