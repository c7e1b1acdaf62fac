"""Lists and tables of events as ndx-events stores them, written with h5py; files need not say their types' parents."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.source import NwbSource

TIMES = np.array([1.0, 2.0, 3.5, 50.0])
TEXT = h5py.string_dtype()


def typed(item, kind, namespace="ndx-events"):
    item.attrs.update(neurodata_type=kind, namespace=namespace)
    return item


@pytest.fixture
def write(tmp_path):
    """Write a file without cached schemas: ``write(fill)`` calls ``fill(file)``."""

    def written(fill):
        path = tmp_path / "events.nwb"
        with h5py.File(path, "w") as file:
            typed(file, "NWBFile", "core").attrs["nwb_version"] = "2.7.0"
            file["identifier"] = "SYNTHETIC"
            fill(file)
        return path

    return written


def listed(kind, codes=None, labels=(), times=TIMES, unit="seconds", name="data"):
    def fill(file):
        group = typed(file.create_group("acquisition/e"), kind)
        group["timestamps"] = times
        group["timestamps"].attrs["unit"] = unit
        if codes is not None:
            group[name] = np.array(codes)
            group[name].attrs["labels"] = np.array(labels, dtype=TEXT)

    return fill


def table(file, place, kind, columns):
    group = typed(file.create_group(place), kind)
    group.attrs["colnames"] = np.array(list(columns), dtype=TEXT)
    for name, values in columns.items():
        group[name] = values
        typed(group[name], "VectorData", "hdmf-common")
    group["id"] = np.arange(len(next(iter(columns.values()))))
    return group


def found(path):
    with NwbSource(NwbConfig(reader="auto")).open((str(path),)) as recording:
        (stream,) = recording.streams
        times, owner = stream.read()
        return times.tolist(), [stream.owners[i] for i in owner], [problem.what for problem in recording.problems]


@pytest.mark.parametrize("name", ["data", "label_keys"])
def test_codes_get_their_labels(write, name):
    times, owners, _ = found(write(listed("LabeledEvents", [0, 5, 0, 2], ["x", "y", "z"], name=name)))
    assert (times, owners) == (TIMES.tolist(), ["x", "5", "x", "z"])


def test_a_label_of_several_codes_and_an_empty_one_stay_apart(write):
    _, owners, _ = found(write(listed("TTLs", [0, 1, 2, 3], ["x", "x", "", "z"])))
    assert owners == ["x#0", "x#1", "2", "z"]


def test_times_in_milliseconds_are_converted_and_reported(write):
    times, owners, problems = found(write(listed("Events", times=TIMES * 1000, unit="ms")))
    assert (times, owners) == (TIMES.tolist(), ["e"] * 4)
    assert any("time stamps in ms" in what for what in problems)


def test_times_that_are_text_are_named_and_stop_nothing_else(write):
    def fill(file):
        listed("Events", times=np.array([b"a", b"b"]))(file)
        listed_too = typed(file.create_group("acquisition/other"), "Events")
        listed_too["timestamps"] = TIMES

    times, _, problems = found(write(fill))
    assert times == TIMES.tolist()
    assert any("acquisition/e has time stamps of shape (2,) that are text" in what for what in problems)


def test_a_table_of_kinds_of_events_needs_no_cached_schema(write):
    def fill(file):
        group = table(file, "processing/m/t", "AnnotatedEventsTable", {"label": np.array([b"a", b"b"])})
        group["event_times"], group["event_times_index"] = np.array([1.0, 2.0, 5.0]), np.array([2, 3])
        group.attrs["colnames"] = np.array(["label", "event_times"], dtype=TEXT)

    assert found(write(fill))[:2] == ([1.0, 2.0, 5.0], ["a", "a", "b"])


def test_numbers_that_a_table_inside_explains_are_codes_without_a_cached_schema(write):
    def fill(file):
        table(file, "events/t", "EventsTable", {"timestamp": TIMES, "cue": np.array([1, 2, 1, 9])})
        meanings = {"value": np.array([1, 2, 9]), "meaning": np.array([b"one", b"two", b"nine"])}
        table(file, "events/t/cue_meanings", "MeaningsTable", meanings)

    assert found(write(fill))[:2] == (TIMES.tolist(), ["1", "2", "1", "9"])


@pytest.mark.parametrize("kind", ["EventsTable", "LickTable"])
def test_a_table_of_events_may_be_of_a_derived_type_and_in_milliseconds(write, kind):
    def fill(file):
        group = table(file, "events/licks", kind, {"timestamp": TIMES * 1000, "strength": TIMES / 3})
        group["timestamp"].attrs["unit"] = "milliseconds"
        group.attrs["namespace"] = "ndx-licks"
        schema = {"groups": [{"neurodata_type_def": "LickTable", "neurodata_type_inc": "EventsTable", "doc": "d"}]}
        file["specifications/ndx-licks/0.1.0/licks"] = json.dumps(schema)

    times, owners, problems = found(write(fill))
    assert (times, owners) == (TIMES.tolist(), ["licks"] * 4)
    assert any("time stamps in milliseconds" in what for what in problems)


@pytest.mark.parametrize(("kind", "column"), [("EventsTable", "timestamp"), ("AnnotatedEventsTable", "event_times")])
def test_a_table_whose_times_are_text_is_named_and_stops_nothing_else(write, kind, column):
    def fill(file):
        group = table(file, "events/t", kind, {column: np.array([b"a", b"b"])})
        if kind == "AnnotatedEventsTable":
            group["event_times_index"] = np.array([1, 2])
        typed(file.create_group("acquisition/other"), "Events")["timestamps"] = TIMES

    times, _, problems = found(write(fill))
    assert times == TIMES.tolist()
    assert any(f"events/t/{column} has time stamps of shape (2,) that are text" in what for what in problems)
