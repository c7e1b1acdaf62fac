"""Samples are drawn with what is known of them, and nothing false is written."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timezone

import numpy as np
import pytest
from matplotlib.figure import Figure

from neurofm_shards import ShardDataset, convert_inputs
from neurofm_shards.errors import ConfigError
from neurofm_shards_report import pictures, plot_sample, register_picture
from neurofm_shards_report.facts import open_facts
from neurofm_shards_report.pictures import engineering, feature_names, plot_view, thinned
from neurofm_shards_report.show import view_of


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_each_column_gets_a_panel_and_masks_do_not(shards):
    figure = plot_sample(ShardDataset(shards)[1])
    assert [title.partition(":")[0] for title in titles(figure)] == ["spikes", "lfp", "behavior", "gain"]


def test_axes_may_be_given(shards):
    figure = Figure()
    axes = figure.subplots(2, 1)
    assert plot_sample(ShardDataset(shards)[1], columns=["lfp", "spikes"], axes=list(axes)) is figure
    with pytest.raises(ConfigError, match="2 axes for 4 panels"):
        plot_sample(ShardDataset(shards)[1], axes=list(axes))


def test_units_are_ordered_by_region_and_activity(shards):
    counts = np.zeros((10, 4), np.uint8)
    counts[:, 0], counts[:, 1], counts[:, 2], counts[:, 3] = 1, 5, 2, 9
    tables = {"units": [{"location": name} for name in ("CA1", "V1", "CA1", "V1")]}
    figure = plot_sample({"spikes": counts, "unit_ids": np.arange(4)}, tables=tables, bin_ms=10.0)
    (axes,) = figure.axes
    assert axes.images[0].get_array()[:, 0].tolist() == [2, 1, 9, 5]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["CA1", "V1"]
    assert axes.images[0].get_extent()[1] == pytest.approx(0.1)


def test_a_spike_stands_at_its_time_in_its_units_row():
    sample = {
        "spike_times": np.array([0.25, 0.5], "f4"), "spike_units": np.array([7, 3]), "unit_ids": np.array([3, 7]),
        "metadata": {"window_start_s": 100.0, "window_stop_s": 101.0},
    }  # fmt: skip
    (axes,) = plot_sample(sample).axes
    assert axes.lines[0].get_xydata().tolist() == [[100.25, 1.0], [100.5, 0.0]]


def test_masked_values_are_shaded_and_not_drawn():
    values = np.arange(20.0).reshape(10, 2)
    valid = np.ones((10, 2), bool)
    valid[3:5] = False
    (axes,) = plot_sample({"behavior": values, "behavior_valid": valid}, bin_ms=100.0).axes
    assert np.isnan(axes.lines[0].get_ydata()).nonzero()[0].tolist() == [3, 4]
    (shade,) = axes.patches
    assert (shade.get_x(), shade.get_width()) == (pytest.approx(0.3), pytest.approx(0.2))


def test_a_feature_that_is_wholly_masked_says_so():
    valid = np.zeros((10, 2), bool)
    sample = {"behavior": np.full((10, 2), np.nan), "behavior_valid": valid}
    (axes,) = plot_sample(sample).axes
    assert axes.texts[0].get_text() == "nothing valid in this window"
    valid[:, 1] = True
    (axes,) = plot_sample({"behavior": np.ones((10, 2)), "behavior_valid": valid}).axes
    assert [text.get_text() for text in axes.texts] == ["0\nmasked", "1\n0.5 to 1.5"]
    assert axes.get_xlabel() == "bin"


@pytest.mark.parametrize("length", [10, 800, 801, 2500, 99_991])
def test_thinned_traces_keep_every_peak(length):
    values = np.random.default_rng(3).normal(size=length)
    time = np.arange(length) / 100
    values[length // 3], values[-1] = 50.0, -60.0
    times, found = thinned(time, values, 800)
    assert len(found) <= 804
    assert len(times) == len(found)
    assert (np.diff(times) >= 0).all()
    assert found.max() == 50.0
    assert found.min() == -60.0
    step = -(-2 * length // 800)
    assert abs(times[found.argmax()] - time[length // 3]) <= step / 100


def test_features_are_called_by_their_series_and_column():
    rows = [
        {"path": "a/pose/x", "column": "0"}, {"path": "a/pos", "column": "0"}, {"path": "a/pos", "column": "1"},
        {"path": "a/hand", "column": "y"}, {},
    ]  # fmt: skip
    assert feature_names(rows) == ["x", "pos 0", "pos 1", "hand y", "4"]
    assert feature_names(rows[:2], parts=2) == ["pose/x", "a/pos"]


def test_an_own_picture_is_used(monkeypatch):
    monkeypatch.setattr(pictures, "_REGISTERED", {})
    register_picture(
        "pupil", lambda axes, view, column: axes.set_title(f"mine: {view.values[column].size}", loc="left")
    )
    assert titles(plot_sample({"pupil": np.zeros(5)})) == ["mine: 5"]


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ConfigError, match="nothing in the sample can be drawn: words"):
        plot_sample({"words": "only"})


@pytest.mark.parametrize(("value", "said"), [(2e-4, "200 µ"), (0.05, "50 m"), (1, "1 "), (5e3, "5 k"), (1e-7, "100 n")])
def test_scale_bars_have_si_prefixes(value, said):
    assert engineering(value) == said


def test_a_sample_of_a_data_set_draws_itself_with_what_the_data_set_knows(shards):
    dataset = ShardDataset(shards)
    figure = dataset[1].plot(columns=["spikes", "lfp"])
    assert [title.partition(":")[0] for title in titles(figure)] == ["spikes", "lfp"]
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert titles(dataset[:2][1].plot()) == titles(dataset[1].plot())


def test_copies_of_a_sample_are_plain(shards):
    sample = ShardDataset(shards)[0]
    for other in (copy.copy(sample), pickle.loads(pickle.dumps(sample)), dict(sample)):
        assert type(other) is dict
        assert list(other) == list(sample)


def marks(axes):
    """Return where vertical lines stand, and what is written above."""
    lines = sorted(float(line.get_xdata()[0]) for line in axes.lines if len(set(line.get_xdata())) == 1)
    return lines, sorted(text.get_text() for text in axes.texts)


def test_trials_are_marked_where_they_start_and_stop():
    sample = {
        "spikes": np.ones((10, 2), np.uint8),
        "events": np.zeros((10, 30), "f4"),
        "metadata": {"session_id": "a", "window_start_s": 10.0, "window_stop_s": 11.0},
    }
    spans = [("a", 3, 8.0, 10.25), ("a", 4, 10.25, 10.75), ("a", 5, 12.0, 13.0), ("b", 6, 10.1, 10.2)]
    trials = [{"session_id": s, "trial": n, "start_s": start, "stop_s": stop} for s, n, start, stop in spans]
    counts, events = plot_sample(sample, tables={"trials": trials}).axes
    named = ["trial 3 stops", "trial 4 starts", "trial 4 stops"]
    assert marks(counts) == ([10.25, 10.25, 10.75], named)
    assert marks(events) == ([10.25, 10.25, 10.75], [])
    sample["metadata"] |= {"trial": 7, "start_time": 10.5, "stop_time": 11.5}
    assert marks(plot_sample(sample).axes[0]) == ([10.5], ["trial 7 starts"])


def test_trials_of_stored_recordings_are_those_of_the_file(tmp_path):
    pytest.importorskip("neurofm_shards_nwb")
    h5py, pynwb = pytest.importorskip("h5py"), pytest.importorskip("pynwb")
    path, starts, stops = tmp_path / "a.nwb", [0.5, 2.25, 4.5], [1.75, 3.5, 6.0]
    nwb = pynwb.NWBFile("d", "a", datetime(2020, 1, 1, tzinfo=timezone.utc), session_id="a")
    nwb.add_unit(spike_times=np.arange(0.05, 7.0, 0.1))
    for start, stop in zip(starts, stops, strict=True):
        nwb.add_trial(start_time=start, stop_time=stop)
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    convert_inputs([path], tmp_path / "stored", {"layout": "recordings"})
    facts = open_facts(tmp_path / "stored")
    seen = set()
    with h5py.File(path) as file:
        table = file["intervals/trials"]
        edges = sorted([*table["start_time"][:].tolist(), *table["stop_time"][:].tolist()])
    for row in range(facts.num_samples):
        view = view_of(facts, str(row))
        first, last, _ = view.span("spikes")
        (axes,) = plot_view(view).axes
        expected = [edge for edge in edges if first <= edge <= last]
        assert marks(axes)[0] == pytest.approx(expected)
        seen.update(expected)
    assert seen == set(edges)


def test_a_region_told_as_keys_and_values_is_named_by_its_value():
    tables = {"units": [{"location": "brain_region: Thalamus; brain_subregion: N/A; hemisphere: left"}]}
    (axes,) = plot_sample({"spikes": np.ones((5, 1), "u1"), "unit_ids": np.arange(1)}, tables=tables, bin_ms=1.0).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Thalamus"]
