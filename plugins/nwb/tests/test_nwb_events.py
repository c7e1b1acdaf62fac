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


def test_a_column_may_name_the_table_that_explains_it_and_the_table_its_column(write):
    def fill(file):
        events = table(file, "events/t", "EventsTable", {"timestamp": TIMES, "cue": np.array([1, 2, 1, 9])})
        meanings = {"value": np.array([1, 2, 5]), "meaning": np.array([b"go", b"stop", b"never"])}
        table(file, "general/cues", "MeaningsTable", meanings)
        typed(events["cue"], "CategoricalVectorData").attrs["meanings"] = file["general/cues"].ref
        events = table(file, "events/u", "EventsTable", {"timestamp": TIMES, "state": np.array([0.0, 1.0, 0.0, 2.5])})
        meanings = {"value": np.array([0, 1]), "meaning": np.array([b"rest", b"run"])}
        explaining = table(file, "events/u/meanings_tables/of_states", "MeaningsTable", meanings)
        explaining.attrs["target"] = events["state"].ref

    with NwbSource(NwbConfig(reader="auto")).open((str(write(fill)),)) as recording:
        cues, states = recording.streams
        assert [cues.owners[i] for i in cues.read()[1]] == ["1", "2", "1", "9"]
        assert [states.owners[i] for i in states.read()[1]] == ["0", "1", "0", "2.5"]
        assert cues.table[0] == {"value": 1, "meaning": "go"}
        assert cues.table[2] == {"value": 9, "meaning": ""}


def test_meanings_are_told_of_texts_too_and_codes_of_one_meaning_stay_apart(write):
    def fill(file):
        columns = {"timestamp": TIMES, "image": np.array([b"cat", b"dog", b"cat", b"dog"])}
        table(file, "events/t", "EventsTable", columns)
        meanings = {"value": np.array([b"cat", b"dog"]), "meaning": np.array([b"a photograph", b"a drawing"])}
        table(file, "events/t/image_meanings", "MeaningsTable", meanings)
        table(file, "events/u", "EventsTable", {"timestamp": TIMES, "port": np.array([1, 2, 3, 1])})
        meanings = {"value": np.array([1, 2, 3]), "meaning": np.array([b"lick", b"lick", b"poke"])}
        table(file, "events/u/port_meanings", "MeaningsTable", meanings)

    with NwbSource(NwbConfig(reader="auto")).open((str(write(fill)),)) as recording:
        images, ports = recording.streams
        assert images.owners == ("cat", "dog")
        assert [row["meaning"] for row in images.table] == ["a photograph", "a drawing"]
        assert ports.owners == ("1", "2", "3")
        assert [row["meaning"] for row in ports.table] == ["lick", "lick", "poke"]


@pytest.mark.filterwarnings("ignore:EnumData is experimental")
@pytest.mark.parametrize("reader", ["h5py", "pynwb"])
def test_meanings_and_enumerations_of_codes_of_events_and_trials(write_nwb, reader):
    event = pytest.importorskip("pynwb.event", reason="this pynwb has no EventsTable")
    common = pytest.importorskip("hdmf.common")

    def fill(nwbfile):
        pulses = event.EventsTable(name="ttl", description="d")
        pulses.add_column(name="pulse", description="d")
        for at, code in zip(TIMES, [55, 1, 1, 7], strict=True):
            pulses.add_row(timestamp=at, pulse=code)
        explain(pulses, "pulse", {55: "begin", 1: "image"})
        nwbfile.add_events_table(pulses)
        kinds = event.EventsTable(name="kinds", description="d")
        for at in TIMES:
            kinds.add_row(timestamp=at)
        kinds.add_column("kind", "d", data=np.array([0, 1, 1, 0], dtype=np.uint8), enum=["left", "right"])
        nwbfile.add_events_table(kinds)
        for start in (0.0, 1.0, 2.0):
            nwbfile.add_trial(start_time=start, stop_time=start + 0.5)
        nwbfile.add_trial_column("choice", "d", data=[1, -1, 1])
        nwbfile.trials.add_column("image", "d", data=np.array([2, 0, 1], dtype=np.uint8), enum=["a", "b", "c"])
        explain(nwbfile.trials, "choice", {1: "left", -1: "right"})

    def explain(owner, column, meanings):
        made = common.MeaningsTable(target=owner[column], description="d")
        for value, meaning in meanings.items():
            made.add_row(value=value, meaning=meaning)
        owner.add_meanings_table(made)

    with NwbSource(NwbConfig(reader=reader)).open((str(write_nwb(fill)),)) as recording:
        streams = {stream.path: stream for stream in recording.streams}
        assert [problem.where for problem in recording.problems] == ["general/subject/subject_id"]
        named = {path: [s.owners[i] for i in s.read()[1]] for path, s in streams.items() if path.startswith("events/")}
        assert [row["meaning"] for row in streams["events/ttl"].table] == ["image", "", "begin"]
    assert named == {"events/ttl": ["55", "1", "1", "7"], "events/kinds": ["left", "right", "right", "left"]}
    columns = dict(streams["intervals/trials"].columns)
    assert columns == {
        "id": ["0", "1", "2"],
        "choice": [1, -1, 1],
        "choice_meaning": ["left", "right", "left"],
        "image": ["c", "a", "b"],
    }


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
