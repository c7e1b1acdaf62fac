"""Inputs that differ: what fits together, what is masked, and one message about all that is wrong."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from neurofm_shards.convert import progress
from neurofm_shards.convert.agreement import all_that_is_wrong, cannot_be_stored, misfits, modalities_of, shared_ids
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.input_reader import InputSpec
from neurofm_shards.convert.inputs import Input
from neurofm_shards.convert.progress import Bars
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError, NothingToConvertError, SourceError
from neurofm_shards.events import InputPlanned, ModalityMasked, PlanningStarted
from neurofm_shards.recordings.options import WindowOptions
from neurofm_shards.types import ColumnSpec, Problem, SourcePlan

X, Y = ColumnSpec("x", "<f8", (3,)), ColumnSpec("y", "<f8", (2,))


def test_the_odd_one_out_is_found_wherever_it_stands():
    assert list(misfits([("c", (X,)), ("a", (X, Y)), ("b", (X, Y))])) == [0]
    assert list(misfits([("a", (X, Y)), ("c", (X,)), ("b", (X, Y))])) == [1]
    assert misfits([("a", (X, Y)), ("b", (X, Y))]) == {}


def test_what_is_added_must_fit_the_data_set():
    found = misfits([("a", (X, Y)), ("b", (X, Y)), ("c", (X,))], (X,))
    assert list(found) == [0, 1]
    assert "the data set" in found[0]


def test_inputs_with_one_cause_are_named_together():
    told = all_that_is_wrong([("d/a.x", "d/a.x: a.x is empty"), ("d/b.x", "d/b.x: b.x is empty"), ("c", "is torn")], 7)
    assert told.splitlines()[0].startswith("3 of 7 inputs cannot be converted; on_error=")
    assert told.splitlines()[1:] == ["  d/a.x, d/b.x: a.x is empty", "  c: is torn"]


def test_causes_that_differ_in_numbers_are_told_once():
    wrong = [(f"s{i}", f"there is no 'nope', but units ({i + 3} ids)") for i in range(200)]
    told = all_that_is_wrong([*wrong, ("t", "there is no 'other', but units (3 ids)")], 300).splitlines()
    assert told[1:] == [
        "  s0, s1, s2, s3, s4 and 195 more: there is no 'nope', but units (3 ids) (numbers are those of s0)",
        "  t: there is no 'other', but units (3 ids)",
    ]


def test_every_shared_session_id_is_told_with_its_inputs():
    assert shared_ids([("a", "1"), ("b", "2")]) == ""
    told = shared_ids([*((f"f{k}", "1") for k in range(7)), ("g", "2"), ("h", "2"), ("i", "3")])
    assert told == "9 inputs share 2 session ids: '1' (f0, f1, f2, f3, f4 and 2 more), '2' (g, h)"


@pytest.mark.plugins
def test_inputs_with_one_session_id_are_told_with_all_else_and_a_template_that_helps(tmp_path):
    paths = []
    for folder in "pqr":
        (tmp_path / folder).mkdir()
        paths += archives(tmp_path / folder, same="x", other="x")
    (tmp_path / "bad.npz").write_bytes(paths[0].read_bytes()[:100])
    with pytest.raises(ConfigError, match="6 inputs share 2 session ids") as caught:
        convert_inputs(paths, tmp_path / "out")
    assert str(caught.value).endswith("Choose ids that differ with session_template='{parent}_{stem}'")
    with pytest.raises(SourceError) as caught:
        convert_inputs([*paths, tmp_path / "bad.npz"], tmp_path / "out")
    assert "1 of 7 inputs cannot be converted" in str(caught.value)
    assert "6 inputs share 2 session ids: 'same' (" in str(caught.value)
    assert not (tmp_path / "out").exists()
    made = convert_inputs(paths, tmp_path / "out", {"session_template": "{parent}_{stem}"})
    assert made["total_samples"] == 24


def test_modalities_are_known_by_their_columns():
    names = ("behavior", "behavior_valid", "spike_times", "unit_ids")
    assert modalities_of(ColumnSpec(name, "<f4", (1,)) for name in names) == ("spikes", "behavior")


def archives(folder, **arrays):
    paths = []
    for name, held in arrays.items():
        np.savez(folder / f"{name}.npz", **{column: np.ones((4, 2)) for column in held})
        paths.append(folder / f"{name}.npz")
    return paths


@pytest.mark.plugins
def test_an_archive_without_an_array_is_left_out(tmp_path):
    paths = archives(tmp_path, a="x", b="xy", c="xy")
    with pytest.raises(ConfigError, match=r"1 of 3 inputs cannot be converted.*\n  .*a\.npz.* has no column 'y'"):
        convert_inputs(paths, tmp_path / "out")
    assert not (tmp_path / "out/dataset_metadata.json").exists()
    result = convert_inputs(paths, tmp_path / "out", {"on_error": "skip"})
    assert result["total_samples"] == 8
    assert [failure["files"] for failure in result["failures"]] == [["a.npz"]]


@pytest.mark.plugins
def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    paths = archives(tmp_path, a="x", b="x", c="x")
    paths[0].write_bytes(b"")
    paths[2].write_bytes(b"nothing")
    with pytest.raises((SourceError, NothingToConvertError)) as caught:
        convert_inputs(paths, tmp_path / "out")
    assert "2 of 3 inputs cannot be converted" in str(caught.value)
    assert all(name in str(caught.value) for name in ("a.npz", "c.npz"))


@pytest.mark.plugins
@pytest.mark.plugins
@pytest.mark.parametrize("pattern", [True, False])
def test_links_that_lead_nowhere_are_told_with_all_else(tmp_path, pattern):
    archives(tmp_path, whole="x")
    (tmp_path / "broken.npz").symlink_to("nowhere.npz")
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    (tmp_path / "torn.npz").write_bytes(b"")
    named = str(tmp_path / "*.npz") if pattern else sorted(map(str, tmp_path.glob("*.npz")))
    with pytest.raises(SourceError, match=r"(?s)3 of 4 inputs .*broken.npz: .*No such file.*loop.npz: .*torn.npz"):
        convert_inputs(named, tmp_path / "out")
    for mode, new in (("new", 3), ("append", 0)):
        done = convert_inputs(named, tmp_path / "out", {"on_error": "skip"}, mode=mode)
        assert (done["total_samples"], len(done["failures"]), len(done["new_failures"])) == (4, 3, new)


@pytest.mark.plugins
def test_appending_after_a_skip_has_no_new_failures(tmp_path):
    paths = archives(tmp_path, a="x", b="xy", c="xy")
    first = convert_inputs(paths, tmp_path / "out", {"on_error": "skip"})
    again = convert_inputs(paths, tmp_path / "out", {"on_error": "skip"}, mode="append")
    assert (len(first["new_failures"]), len(again["failures"]), again["new_failures"]) == (1, 1, [])
    assert again["total_samples"] == first["total_samples"]


def test_events_say_who_lacks_what():
    event = ModalityMasked("behavior", ("a", "b"), 5)
    assert event.to_json() == {"event": "modality-masked", "modality": "behavior", "inputs": ("a", "b"), "total": 5}


@pytest.mark.plugins
def test_python_callers_are_told_through_logging(tmp_path, caplog):
    paths = archives(tmp_path, a="x", b="xy", c="xy")
    paths[1].write_bytes(b"")
    with caplog.at_level(logging.INFO, "neurofm_shards.convert"):
        convert_inputs(paths, tmp_path / "out", {"on_error": "skip"})
    told = [record for record in caplog.records if record.name == "neurofm_shards.convert"]
    assert {record.levelname for record in told} == {"WARNING"}
    assert any("b.npz: left out: " in record.getMessage() for record in told)


def test_an_array_that_cannot_be_stored_is_named_with_its_input():
    wide = ColumnSpec("x", np.dtype(np.longdouble).str, (3,))
    assert cannot_be_stored("a.npz", (Y, wide)).startswith("a.npz: column 'x' is an array of dtype")
    assert not cannot_be_stored("a.npz", (X, Y, ColumnSpec("text", None, None)))


@pytest.mark.plugins
def test_an_array_that_cannot_be_stored_stops_no_other_input(tmp_path):
    paths = archives(tmp_path, a="x", b="x")
    np.savez(paths[0], x=np.ones((4, 2), np.longdouble))
    with pytest.raises(ConfigError, match=r"a\.npz: column 'x' is an array of dtype .*astype\('float64'\)"):
        convert_inputs(paths, tmp_path / "out")
    assert convert_inputs(paths, tmp_path / "out", {"on_error": "skip"})["total_samples"] == 4


@pytest.mark.plugins
def test_columns_that_samples_lack_are_no_matter_of_modalities(tmp_path):
    with pytest.raises(ConfigError, match="no column") as caught:
        convert_inputs(archives(tmp_path, a="x", b="y"), tmp_path / "out")
    assert "modalities" not in str(caught.value)


@pytest.mark.plugins
def test_a_name_that_is_not_utf_8_is_refused_by_name(tmp_path):
    (path,) = archives(tmp_path, a="x")
    odd = tmp_path / b"caf\xe9.npz".decode(errors="surrogateescape")
    try:
        path.rename(odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(SourceError, match=r"the names of 1 of 1 input are not UTF-8.*caf.udce9\.npz"):
        convert_inputs(odd, tmp_path / "out")


def test_what_has_one_cause_is_one_sentence():
    odd = [Problem(where, "1 of 1 times are not a number", "dropped") for where in ("a/x", "a/y")]
    plan = SourcePlan(3, (X,), "f", problems=(*odd, Problem("a", "is odd", "kept"), Problem("a", "said", "no", "info")))
    source = Input(("/d/a.toy",), "toy", "{}", Mock(), ("a.toy",))
    item = InputPlan(InputSpec(source, WindowOptions()), plan)
    assert item.notes == ("a/x, a/y: 1 of 1 times are not a number; dropped", "a: is odd; kept")
    failed = InputPlan(item.spec, None, error="/d/a.toy is torn")
    assert failed.notes == ("left out: it is torn",)


def test_a_notebook_shows_the_bars_as_text_that_is_replaced(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    shown = []
    bars = progress.NotebookBars(shown.append)
    bars(PlanningStarted(3))
    bars(InputPlanned("a.nwb", 5))
    assert len(shown) == 1
    now[0] += 1
    bars(InputPlanned("b.nwb", 5))
    assert "2/3" in shown[-1]
    bars.show()
    assert "opening inputs" in shown[-1]


@pytest.mark.plugins
@pytest.mark.parametrize("asked", [True, False])
def test_bars_are_drawn_on_request(tmp_path, monkeypatch, asked):
    drawn = []
    monkeypatch.setattr(Bars, "__call__", lambda _, event: drawn.append(type(event).name))
    convert_inputs(archives(tmp_path, a="x"), tmp_path / "out", progress=asked)
    assert ("shard-committed" in drawn) is asked
