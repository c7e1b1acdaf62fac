"""No single time, however wrong, decides how long a recording is; what is known of its ends is used.

Broken on purpose, each of these is caught here: epochs believed whatever they say, the middle of a few times taken
with interpolated quantiles (which a garbage time pulls along), ends of invalid or observed time ignored where they are
infinite.
"""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards.errors import SourceError
from neurofm_shards.recordings import InMemoryRecording, WindowOptions, windowed
from neurofm_shards.recordings.memory import events, intervals, irregular, regular
from neurofm_shards.recordings.timeline import timeline

GARBAGE = -1.5e9
NAN, INF = np.nan, np.inf


def units(times, **more):
    return events("units", {"a": times}, **more)


def epochs(start, stop, tags=None):
    return intervals("epochs", start, stop, {"tags": tags or [["all"]] * len(start)}, modality="epochs")


def extent(*streams):
    when = timeline(streams, "file")
    return when.start / 1e9, when.stop / 1e9, [problem.what for problem in when.problems]


@pytest.mark.parametrize("number", [5, 20, 150, 300])
def test_one_garbage_time_is_left_out_however_few_others_there_are(number):
    start, stop, problems = extent(units([GARBAGE, *np.linspace(100, 160, number)]))
    assert (start, round(stop, 6)) == (100.0, 160.0)
    assert len(problems) == 1


@pytest.mark.parametrize("times", [[0.0, 3000.0], [0.0, 100.0, 7200.0], [0.0, 10.0, 11.0, 12.0, 9000.0]])
def test_a_few_scattered_times_are_all_believed(times):
    start, stop, problems = extent(units(times))
    assert (start, round(stop, 6), problems) == (0.0, times[-1], [])


@pytest.mark.parametrize(("start", "stop"), [(GARBAGE, 5.0), (2.0, 1e12), (GARBAGE, GARBAGE + 5)])
def test_an_epoch_years_away_from_all_streams_is_left_out(start, stop):
    table = epochs([0.0, start, 5.0], [5.0, stop, 10.0])
    first, last, problems = extent(table, units(np.linspace(0, 9, 50)))
    assert (first, last) == (0.0, 10.0)
    assert "1 epoch far from all else" in problems[0]


def test_epochs_longer_than_a_day_are_believed_where_the_streams_agree_or_there_are_none():
    week = epochs([0.0], [7 * 86_400.0])
    assert extent(week, units(np.linspace(0, 7 * 86_400, 500)))[:2] == (0.0, 7 * 86_400)
    assert extent(week)[:2] == (0.0, 7 * 86_400)


def test_more_windows_than_memory_holds_are_an_error_that_says_whose_times_are_wrong():
    with pytest.raises(SourceError, match=r"from -1.5e\+09 to 5 s, as units says, .* correct its times"):
        windowed(InMemoryRecording([units([GARBAGE, 5.0])]))


def read(*streams, **options):
    samples = windowed(InMemoryRecording(streams), WindowOptions(overlap=0, **options))
    return samples.read(0, samples.plan().num_samples)


def starts(*streams, **options):
    return [said["window_start_s"] for said in read(*streams, **options).metadata]


@pytest.mark.parametrize("stop", [NAN, INF, 1e12])
def test_invalid_time_without_an_end_lasts_until_that_of_the_recording(stop):
    invalid = intervals("invalid_times", [3.5], [stop], modality="invalid")
    assert starts(epochs([0.0], [10.0]), units(np.arange(100) / 10), invalid) == [0.0, 1.0, 2.0]


def test_chosen_epochs_may_lack_an_end_or_lie_beyond_the_recording():
    table = epochs([0.0, 4.0, NAN], [4.0, INF, 9.0], [["a"], ["b"], ["b"]])
    assert starts(table, units(np.arange(100) / 10), epochs=("b",)) == []
    table = epochs([0.0, 0.0], [10.0, 1e12], [["a"], ["b"]])
    assert len(starts(table, units(np.arange(100) / 10), epochs=("b",))) == 10


def test_observed_time_may_be_without_end():
    whole, first_half = np.array([[-INF, INF]]), np.array([[0.0, 5.0]])
    trains = {"a": np.arange(100) / 10, "b": np.arange(100) / 10}
    observed = events("units", trains, observed=lambda: [whole, first_half])
    block = read(epochs([0.0], [10.0]), observed)
    assert block.columns["spikes_valid"].mean(axis=(0, 1)).tolist() == [1.0, 0.5]


def test_a_trial_at_no_possible_time_is_dropped_and_an_impossible_stop_is_none():
    table = intervals("trials", [1.0, 1e12, 5.0], [2.0, 1e12 + 1, 1e12])
    samples = windowed(
        InMemoryRecording([epochs([0.0], [10.0]), units(np.arange(100) / 10), table]), WindowOptions(sampling="trial")
    )
    assert samples.plan().drops["trial without a start time"] == 1
    assert [said["trial"] for said in samples.read(0, samples.plan().num_samples).metadata] == [0, 2]


def poisson(rate, *stretches, seed=0):
    random = np.random.default_rng(seed)
    return np.sort(np.concatenate([random.uniform(a, b, int(rate * (b - a))) for a, b in stretches]))


def lengths(spans):
    return [round((b - a) / 1e9, 3) for a, b in spans.tolist()]


def cut(*streams, **options):
    recording = InMemoryRecording(list(streams))
    return windowed(recording, WindowOptions(**{"sequence_length": 100, "overlap": 0, **options}))


def test_silence_between_epochs_is_a_pause_and_no_part_of_rates():
    times = poisson(60, (0, 10), (30, 40))
    samples = cut(epochs([0.0, 30.0], [10.0, 40.0]), units(times))
    plan = samples.plan()
    starts = [row["window_start_s"] for row in samples.read(0, plan.num_samples).metadata]
    assert starts == [*range(10), *range(30, 40)]
    assert plan.drops == {"not recorded": 20}
    assert plan.tables["units"][0]["firing_rate_hz"] == pytest.approx(len(times) / 20)
    assert plan.metadata["recorded_s"] == 20.0


def steady(*spans):
    times = np.concatenate([np.arange(low + 0.025, high, 0.05) for low, high in spans])
    return events("units", {"a": times, "b": times + 0.01})


def test_an_epoch_without_a_stop_lasts_until_the_next_or_the_end_of_what_was_recorded():
    epochs = intervals("epochs", [0.0, 30.0], [30.0, NAN], {"tags": [["rest"], ["run"]]}, modality="epochs")
    recording = [steady((0, 60)), epochs]
    plan = windowed(InMemoryRecording(recording), WindowOptions(overlap=0)).plan()
    assert plan.metadata["extent_s"] == pytest.approx([0, 60], abs=0.1)
    assert plan.num_samples == 59
    assert [row["num_spikes"] for row in plan.tables["units"]] == [1200, 1200]
    chosen = windowed(InMemoryRecording(recording), WindowOptions(overlap=0, epochs=("run",))).plan()
    assert chosen.num_samples == 29


def test_an_epoch_without_a_stop_may_hold_a_pause():
    epochs = intervals("epochs", [0.0, 200.0], [NAN, 250.0], {"tags": [["rest"], ["run"]]}, modality="epochs")
    plan = windowed(InMemoryRecording([steady((0, 50), (200, 250)), epochs]), WindowOptions(overlap=0)).plan()
    assert plan.metadata["recorded_s"] == pytest.approx(100, abs=0.1)
    assert [row["firing_rate_hz"] for row in plan.tables["units"]] == pytest.approx([20, 20], rel=1e-2)
    assert plan.num_samples == 99


def test_epochs_that_label_parts_of_one_recording_stay_labels():
    times = poisson(60, (0, 40))
    plan = cut(epochs([0.0, 30.0], [10.0, 40.0]), units(times)).plan()
    assert (plan.num_samples, plan.drops) == (40, {})
    assert plan.tables["units"][0]["firing_rate_hz"] == pytest.approx(len(times) / 40)


@pytest.mark.parametrize("table", [True, False])
def test_a_few_sparse_units_do_not_make_a_pause(table):
    times = poisson(0.3, (0, 10), (30, 40))
    streams = [epochs([0.0, 30.0], [10.0, 40.0])] if table else []
    when = timeline([*streams, units(np.concatenate([[0.0], times, [40.0]]))], "file")
    assert len(when.pauses) == 0


def test_a_series_that_goes_on_between_epochs_makes_them_labels():
    when = timeline(
        [epochs([0.0, 30.0], [10.0, 40.0]), units(poisson(60, (0, 10), (30, 40))), regular("p", np.zeros(400), 10.0)],
        "file",
    )
    assert len(when.pauses) == 0


def test_bursts_of_one_unit_are_not_parted_by_pauses():
    random = np.random.default_rng(3)
    starts = np.cumsum(random.exponential(20.0, 60))
    times = np.sort(np.concatenate([start + np.cumsum(random.exponential(0.01, 20)) for start in starts]))
    assert len(timeline([units(times)], "file").pauses) == 0


def test_without_epochs_streams_that_leave_off_make_a_pause():
    when = timeline([units(poisson(60, (0, 10), (30, 40)))], "file")
    assert np.allclose(lengths(when.pauses), [20.0], atol=0.2)
    when = timeline([regular("a", np.zeros(100), 100.0), regular("b", np.zeros(100), 100.0, t0=5.0)], "file")
    assert lengths(when.pauses) == [4.0]


def test_behaviour_alone_that_leaves_off_makes_a_pause_and_a_dropout_is_masked():
    times = np.concatenate([np.arange(0, 50, 0.01), np.arange(200, 250, 0.01), np.arange(255, 300, 0.01)])
    samples = cut(irregular("x", np.sin(times), times))
    plan = samples.plan()
    starts = [row["window_start_s"] for row in samples.read(0, plan.num_samples).metadata]
    assert starts == [*range(50), *range(200, 300)]
    assert plan.drops == {"not recorded": 150}
    valid = samples.read(0, plan.num_samples).columns["behavior_valid"].mean(axis=(1, 2))
    assert (valid[101:104] == 0).all()  # nothing is invented between 251 and 254 s


def test_a_series_that_leaves_off_as_the_units_do_is_part_of_the_pause():
    times = poisson(15, (0, 30), (100, 130))
    stamps = np.concatenate([np.arange(300) / 10, np.arange(300) / 10 + 100])
    plan = cut(units(times), irregular("p", np.zeros(600), stamps)).plan()
    assert plan.drops["not recorded"] >= 70
    assert plan.tables["units"][0]["firing_rate_hz"] == pytest.approx(len(times) / 60, rel=0.01)


def test_observed_time_is_half_open_and_adds_no_window():
    seen = [np.array([[5.0, 50.0], [60.0, 100.0]])]
    plan = cut(units(poisson(20, (5, 50), (60, 100)), observed=lambda: seen)).plan()
    assert plan.metadata["extent_s"] == [5.0, 100.0]
    assert (plan.num_samples, plan.drops) == (85, {"not recorded": 10})


def test_the_last_tick_of_a_series_whose_clock_counts_from_1970_is_no_pause():
    start, _, problems = extent(irregular("p", np.zeros(600), 1.7e9 + np.arange(600) / 10))
    assert (start, problems) == (1.7e9, [])


def test_trials_without_spikes_widen_the_extent_only_near_what_was_recorded():
    times = poisson(1.0, (20, 80), seed=1)
    trials = intervals("trials", np.arange(10.0, 90.0, 5.0), np.arange(10.0, 90.0, 5.0) + 5)
    when = timeline([units(times), trials], "file")
    assert (when.start / 1e9, when.stop / 1e9) == (10.0, 90.0)
    fast = poisson(100.0, (1000, 1080), seed=1)
    early = intervals("trials", [2.0, 999.95], [990.0, 1010.0])
    when = timeline([units(fast), early], "file")
    assert when.start / 1e9 == 999.95


def test_the_extent_is_that_of_units_series_and_events_together():
    streams = [
        units(poisson(50, (10, 20))),
        irregular("x", np.zeros(3001), np.arange(3001) / 100),
        events("licks", {"l": poisson(5, (0, 35))}, modality="events"),
    ]
    start, stop, _ = extent(*streams)
    assert start == 0.0
    assert stop == pytest.approx(35.0, abs=1.0)


def test_the_option_extent_chooses():
    streams = [units(poisson(50, (10, 20))), regular("x", np.zeros(3000), 100.0, modality="other")]
    trials = intervals("trials", [5.0], [25.0])
    for option, wanted in (("series", (0, 30)), ("trials", (5, 25)), ("all", (0, 30)), ((2.0, 12.0), (2, 12))):
        when = timeline([*streams, trials], "file", option)
        assert (when.start / 1e9, when.stop / 1e9) == wanted
        assert len(when.pauses) == 0
    when = timeline([*streams, trials], "file", "units")
    assert (round(when.start / 1e9), round(when.stop / 1e9)) == (10, 20)
    with pytest.raises(SourceError, match="extent=trials finds nothing that has a time"):
        timeline(streams, "file", "trials")
    assert cut(*streams, extent="units").plan().metadata["extent"] == "units"
    with pytest.raises(ValueError, match="is not a range"):
        WindowOptions(extent=(3.0, 1.0))


def test_a_window_in_which_nothing_that_is_taken_was_recorded_is_dropped():
    streams = [
        regular("a", np.zeros(100), 100.0, modality="behavior"),
        regular("b", np.arange(100.0), 100.0, t0=5.0, modality="other"),
    ]
    samples = cut(*streams, behavior=[{"path": "b"}])
    plan = samples.plan()
    assert plan.num_samples == 1
    assert samples.read(0, 1).metadata[0]["window_start_s"] == 5.0
    assert plan.drops == {"not recorded": 5}
