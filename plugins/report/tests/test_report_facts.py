"""Facts are those of the data, counted here in another way."""

from __future__ import annotations

import numpy as np
import pytest
from made_shards import make

from neurofm_shards_report import measures
from neurofm_shards_report.facts import DatasetFacts, drawn_rows
from neurofm_shards_report.figures import joined, short_names
from neurofm_shards_report.measures import DrawnSamples, validity
from neurofm_shards_report.numbers import sample_table


def brute_force(facts):
    """Count windows that share time with a window of another split in the same session, one pair at a time."""
    found = {}
    session, split = facts.sessions_of.codes, facts.splits_of.codes
    for i in range(facts.num_samples):
        for j in range(facts.num_samples):
            apart = session[i] != session[j] or split[i] == split[j]
            if not apart and facts.start[i] < facts.stop[j] and facts.start[j] < facts.stop[i]:
                names = facts.splits_of.names
                found.setdefault(frozenset((names[split[i]], names[split[j]])), set()).add(i)
    return found


def test_sessions_splits_and_covered_seconds(shards):
    facts = DatasetFacts(shards)
    assert [(s.summary.name, s.summary.subject, s.summary.samples, s.covered_s) for s in facts.sessions] == [
        ("s0", "mouse", 10, 10.0),
        ("s1", "mouse", 10, 10.0),
    ]
    assert facts.splits_of.counts() == {"train": 12, "val": 4, "test": 4}
    assert facts.sessions[0].summary.splits == {"train": 6, "val": 2, "test": 2}


@pytest.mark.parametrize("overlap", [False, True])
def test_leaks_are_found_where_there_are_some(tmp_path, overlap):
    facts = DatasetFacts(make(tmp_path / "shards", overlap=overlap))
    expected = brute_force(facts)
    for leak in facts.leaks():
        rows = expected.get(frozenset(leak["splits"]), set())
        assert bool(leak["overlapping"]) is bool(rows)
        assert leak["overlapping"] <= len(rows) <= 2 * leak["overlapping"]
        assert leak["sessions"] == ["s0", "s1"]


def test_covered_seconds_count_overlapping_windows_once(tmp_path):
    facts = DatasetFacts(make(tmp_path / "shards", overlap=True))
    assert [session.covered_s for session in facts.sessions] == [pytest.approx(5.5)] * 2


def test_drawn_rows_have_some_of_every_split_and_session(shards):
    facts = DatasetFacts(shards)
    for number in (3, 6, 12, 20, 99):
        rows = drawn_rows(facts, number)
        assert len(set(rows.tolist())) == len(rows) == min(number, 20)
        assert set(facts.splits_of.codes[rows].tolist()) == {0, 1, 2}
    assert set(facts.sessions_of.codes[drawn_rows(facts, 6)].tolist()) == {0, 1}


def test_labels_of_sessions_are_short_and_differ():
    names = [f"sub-A{i}_ses-2019{i:04d}_behavior+ecephys" for i in range(30)]
    assert short_names(names)[3] == "sub-A3_ses-20190003…"
    assert short_names(["mouse-1", "mouse-2"]) == ["mouse-1", "mouse-2"]
    assert short_names([""]) == ["(none)"]
    long = [f"{'a' * 20}{i:02d}{'b' * 20}" for i in range(20)]
    assert len(set(short_names(long))) == 20
    assert max(map(len, short_names(long))) <= 24


def test_validity_over_time_is_that_of_the_masks(shards):
    facts = DatasetFacts(shards)
    (found,) = validity(facts, [0, 1])
    masks = facts.collection.gather(np.arange(20), ["behavior_valid"])["behavior_valid"]
    assert found.name == "behavior"
    assert found.share.tolist() == masks.mean(axis=(1, 2)).tolist()
    assert found.stretches(1)[:3] == [(0.0, 1.0, 1.0), (1.0, 2.0, pytest.approx(0.8)), (2.0, 3.0, 1.0)]


def test_windows_that_were_left_out_of_a_look_leave_no_gap_in_validity(tmp_path, monkeypatch):
    facts = DatasetFacts(make(tmp_path / "shards", sessions=1, windows=100))
    monkeypatch.setattr(measures, "MAX_WINDOWS", 67)  # steps of one and of two windows
    (found,) = validity(facts, [0])
    assert len(found.share) == 67
    assert found.start[1:].tolist() == found.stop[:-1].tolist()


def test_numbers_of_a_sample_are_those_of_its_values(shards):
    facts = DatasetFacts(shards)
    view = DrawnSamples(facts).view(1)
    behind = sample_table(view)
    rows = {(row[0], row[1]): row[2:] for row in behind.rows}
    own = view.values["behavior"][view.values["behavior_valid"][:, 0], 0]
    assert [head.text for head in behind.heads] == ["column", "of", "least", "mean", "greatest", "valid"]
    assert rows["behavior", "0"] == [*(f"{x:.4g}" for x in (own.min(), own.mean(dtype="f8"), own.max())), "80%"]
    assert rows["spikes", "5"][2] == str(view.values["spikes"][:, 5].max())


def test_stretches_join_what_touches():
    start, stop = np.array([0.0, 0.5, 3.0, 2.0]), np.array([1.0, 1.5, 4.0, 3.0])
    assert joined(start, stop) == [(0.0, 1.5), (2.0, 2.0)]


def test_shares_of_valid_values_and_distributions_are_those_of_the_data(shards):
    facts = DatasetFacts(shards)
    drawn = DrawnSamples(facts)
    assert len(drawn.rows) == 20
    assert drawn.valid_shares() == {"behavior": pytest.approx(0.9)}
    for found in drawn.distributions():
        assert (found.number, found.invalid) == (900, 100)
        assert found.counts.sum() + found.outside == 900
    assert drawn.counts_per_unit() == pytest.approx(drawn.columns["spikes"].mean(axis=(0, 1)))


def test_the_spectrum_has_its_peak_and_its_power_where_they_are(shards):
    (found,) = DrawnSamples(DatasetFacts(shards)).spectra()
    assert found.frequency[found.median.argmax()] == pytest.approx(20.0)
    power = found.median.sum() * (found.frequency[1] - found.frequency[0])
    assert power == pytest.approx((1e-4) ** 2 / 2, rel=0.05)  # mean square of a sine


def test_the_oddest_sample_is_the_one_with_most_spikes(shards):
    facts = DatasetFacts(shards)
    counts = facts.collection.gather(np.arange(20))["spikes"].sum(axis=(1, 2))
    odd = DrawnSamples(facts).oddest()
    assert odd[0].row == counts.argmax()
    assert f"most spikes: {counts.max()}" in odd[0].why
