"""Windows that are cut when they are loaded are the samples that converting gives: values, metadata, tables, orders."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import tempfile
import threading
from pathlib import Path

import made_recordings
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_recordings import NUMBERING, WINDOWS, drained, imaged, said, same, session, window_options
from rich.console import Console

from neurofm_shards import (
    ResumableWebDatasetLoader,
    ShardDataset,
    ShardedDatasetInfo,
    WebDatasetLoader,
    convert_inputs,
    create_webdataset_dataloader,
    mix,
    open_windows,
    register_source,
    split,
)
from neurofm_shards._process import mapped_bytes
from neurofm_shards.cli.main import run
from neurofm_shards.errors import ClosedError, ConfigError, IntegrityError, NeurofmShardsError, SourceError
from neurofm_shards.format.sidecar import read_arrays, write_arrays
from neurofm_shards.loading.batching import Balanced, OneSession, TokenBudget
from neurofm_shards.plugins.registry import registry
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings.continuous import SampleCutter
from neurofm_shards.recordings.memory import events, intervals, irregular, regular
from neurofm_shards.recordings.options import WindowOptions


def assert_same_samples(windows, stored, rows=None):
    rows = np.arange(stored.num_samples) if rows is None else rows
    assert windows.num_samples == stored.num_samples
    found, expected = windows.gather(rows), stored.gather(rows)
    assert set(found) == set(expected)
    for name, data in expected.items():
        assert same(found[name], data), name
    assert said(windows.metadata(rows)) == said(stored.metadata(rows))


@pytest.fixture(params=["one", "many"])
def both(request, store, tmp_path):
    """The same windows cut at load and stored: of one session, and of three that differ."""
    sessions = {"a": session(8), "b": session(2), "c": session(4, units=2, lfp=True)}
    chosen = {"a": sessions["a"]} if request.param == "one" else sessions
    files, folder = store(chosen, piece_bytes=2_000)
    convert_inputs(files, tmp_path / "windows", {"windows": WINDOWS, "shard_size": 9})
    with open_windows(folder, WINDOWS) as windows, ShardCollection.open(tmp_path / "windows") as stored:
        yield windows, stored


def outcome(call):
    """Return what a call returns, or what kind of error it raises."""
    try:
        return call()
    except NeurofmShardsError as error:
        return type(error)


@settings(max_examples=12, phases=[Phase.generate])
@given(seeds=st.lists(st.sampled_from([0, 2, 4, 6, 8, 10]), min_size=1, max_size=3, unique=True),
       options=window_options(), data=st.data())  # fmt: skip
def test_windows_at_load_are_windows_converted(seeds, options, data):
    registry.cache_clear()
    register_source(made_recordings.ENTRY)
    with tempfile.TemporaryDirectory() as top:
        files = [made_recordings.file_of(Path(top) / "in", f"s{seed}", session(seed, 8.0)) for seed in seeds]
        pieces = data.draw(st.sampled_from([300, 4_000, 1 << 28]))
        convert_inputs(files, Path(top) / "recorded", {"layout": "recordings", "piece_bytes": pieces})
        expected = outcome(lambda: convert_inputs(files, Path(top) / "windows", {"windows": options}))
        if isinstance(expected, type):
            assert outcome(lambda: open_windows(Path(top) / "recorded", options).gather([0])) is expected
            return
        with (
            open_windows(Path(top) / "recorded", options) as windows,
            ShardCollection.open(Path(top) / "windows") as stored,
        ):
            rows = np.array(data.draw(st.lists(st.integers(0, stored.num_samples - 1), max_size=12)), dtype=np.int64)
            assert_same_samples(windows, stored)
            assert_same_samples(windows, stored, rows)
            for name in stored.manifest.tables:
                assert windows.table(name) == stored.table(name)


PLANES = [{"path": "ophys/upper", "filter": "iscell == 1"}, {"path": "ophys/lower"}]


def test_stored_recordings_tell_how_long_was_recorded_as_windows_do(store, tmp_path):
    paused = [
        events("units", {"a": np.concatenate([np.arange(0.0, 10.0, 0.5), np.arange(30.0, 40.0, 0.5)])}),
        intervals("intervals/epochs", [0.0, 30.0], [10.0, 40.0], modality="epochs"),
    ]
    files, folder = store({"a": session(8), "b": paused})
    convert_inputs(files, tmp_path / "windows", {"windows": {"unit_table_path": "units", "modalities": ["spikes"]}})
    found, expected = (ShardedDatasetInfo(place).get_summary()["sessions"] for place in (folder, tmp_path / "windows"))
    assert [each["seconds"] for each in found] == [each["seconds"] for each in expected]
    assert found[1]["seconds"] == pytest.approx(20.0)
    stream = io.StringIO()
    ShardedDatasetInfo(folder).print_summary(Console(file=stream, width=100))
    assert f"recorded       {sum(each['seconds'] for each in found) / 3600:.2f} h" in stream.getvalue()


@pytest.mark.parametrize("options", [{}, {"min_valid_fraction": 0.5}, {"modalities": ("spikes",)}])
def test_a_recording_that_lacks_a_modality_gets_masked_columns_as_in_conversion(store, tmp_path, caplog, options):
    without = [stream for stream in session(2) if stream.modality not in ("behavior", "lfp")]
    files, folder = store({"a": session(8), "b": without, "c": session(4)})
    chosen = {"sequence_length": 20, "unit_table_path": "units", **options}
    convert_inputs(files, tmp_path / "windows", {"windows": chosen})
    caplog.clear()
    for _ in ("found", "read again"):
        with open_windows(folder, chosen) as windows, ShardCollection.open(tmp_path / "windows") as stored:
            assert list(windows.columns) == list(stored.columns)
            assert_same_samples(windows, stored)
    masked = [text for text in caplog.messages if "get empty, masked columns" in text]
    how = "1 of 3 recordings have none, and get empty, masked columns: b"
    expected = [f"{name}: {how}" for name in ("behavior", "lfp")]
    assert masked == ([] if options.get("modalities") else expected)


@pytest.mark.parametrize(
    "options",
    [
        {"modalities": ["spikes", "ophys"], "ophys": PLANES},
        {"modalities": ["behavior"], "behavior": [{"path": "paw", "min_confidence": 0.5}]},
        {"modalities": ["behavior"], "behavior": [{"path": "paw", "min_confidence": 0.5, "at": "samples"}]},
        {"modalities": ["behavior"], "behavior": [{"path": "wheel"}], "series_times": "milliseconds"},
        {"modalities": ["behavior"], "behavior": [{"path": "wheel"}], "series_times": "seconds"},
        {"modalities": ["behavior"], "behavior": [{"path": "wheel"}]},
    ],
    ids=["planes", "confidence", "confidence of samples", "milliseconds", "seconds", "doubtful"],
)
def test_all_that_is_said_of_a_stream_is_stored_with_it(store, tmp_path, options):
    files, folder = store({"a": imaged(0), "b": imaged(1)}, piece_bytes=3_000)
    options = {"bin_size_ms": 100, "sequence_length": 10, **options}
    expected = outcome(lambda: convert_inputs(files, tmp_path / "windows", {"windows": options}))
    if isinstance(expected, type):
        assert options["behavior"] == [{"path": "wheel"}]
        assert "series_times" not in options
        assert outcome(lambda: open_windows(folder, options).gather([0])) is expected
        return
    with open_windows(folder, options) as windows, ShardCollection.open(tmp_path / "windows") as stored:
        assert_same_samples(windows, stored)
        assert stored.manifest.tables
        for name in stored.manifest.tables:
            assert windows.table(name) == stored.table(name)


@pytest.mark.parametrize("doubtful", ["licks", "units"])
def test_events_at_doubtful_times_are_at_load_what_conversion_makes_of_them(store, tmp_path, doubtful):
    times = {"units": np.arange(0.05, 30.0, 0.1), "licks": np.round(np.linspace(2.0, 28.0, 40), 3)}
    times[doubtful] = times[doubtful] * 1000
    streams = [
        events("units", {"a": times["units"]}),
        events("licks", {"l": times["licks"]}, modality="behavior"),
        irregular("wheel", np.zeros((3000, 1)), np.arange(3000) / 100),
    ]
    files, folder = store({"a": streams})
    behavior = {"modalities": ["behavior"], "behavior": [{"path": "licks"}]}
    wanted = behavior if doubtful == "licks" else {"modalities": ["spikes"]}
    with pytest.raises(SourceError, match=doubtful):
        convert_inputs(files, tmp_path / "none", {"windows": wanted})
    with pytest.raises(SourceError, match=doubtful):
        open_windows(folder, wanted).gather([0])
    options = {**behavior, "series_times": "milliseconds"}
    convert_inputs(files, tmp_path / "windows", {"windows": options})
    with open_windows(folder, options) as windows, ShardCollection.open(tmp_path / "windows") as stored:
        assert_same_samples(windows, stored)


def test_sweeps_at_load_are_sweeps_converted(store, tmp_path):
    rng = np.random.default_rng(0)
    made = [
        regular(f"s{i}", rng.integers(-9, 9, 150 + i).astype(np.int16), 300.0, modality="raw", scale=0.5 + i, unit="V")
        for i in range(9)
    ]
    columns = {
        "responses": [[stream.path] for stream in made],
        "response_rows": [[[i, -1]] for i in range(9)],
        "stimuli": [[]] * 9,
        "stimulus_rows": [[]] * 9,
    }
    table = intervals("sweeps", np.zeros(9), np.ones(9), columns, modality="sweeps")
    files, folder = store({"a": [*made, table]}, piece_bytes=700)
    options = {"sampling": "sweep", "sequence_length": 50, "label_columns": ["sweep_row"]}
    convert_inputs(files, tmp_path / "windows", {"windows": options})
    with open_windows(folder, options) as windows, ShardCollection.open(tmp_path / "windows") as stored:
        assert stored.num_samples == 9
        assert_same_samples(windows, stored)
        assert_same_samples(windows, stored, np.random.default_rng(1).permutation(9))


def test_windows_of_joined_series_are_cut_by_several_threads_at_once(store, monkeypatch):
    monkeypatch.setattr(SampleCutter, "_load", None)  # what keeps the last block is for one thread
    _, folder = store({"a": imaged(0, 200.0)}, piece_bytes=3_000)
    options = {"bin_size_ms": 100, "sequence_length": 10, "stride": 1, "modalities": ["ophys"], "ophys": PLANES}
    with open_windows(folder, options) as windows:
        rows = [np.random.default_rng(i).integers(0, windows.num_samples, 50) for i in range(40)]
        expected = [windows.gather(some)["ophys"] for some in rows]
        found: dict[int, np.ndarray] = {}

        def cut(first):
            found.update({i: windows.gather(rows[i])["ophys"] for i in range(first, 40, 4)})

        threads = [threading.Thread(target=cut, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(same(found[i], expected[i]) for i in range(40))


def test_rows_columns_types_and_outputs_are_chosen_as_in_shards(both):
    windows, stored = both
    rng = np.random.default_rng(0)
    rows = rng.permutation(stored.num_samples)[:25]
    assert_same_samples(windows, stored, np.concatenate([rows, rows[:3]]))
    found = windows.gather(rows, ["behavior"], dtypes={"behavior": np.float64})
    assert list(found) == ["behavior"]
    expected = stored.gather(rows, ["behavior"], dtypes={"behavior": np.float64})
    assert same(found["behavior"], expected["behavior"])
    name = next(name for name, spec in windows.columns.items() if spec.shape and None not in spec.shape)
    spec = windows.columns[name]
    out = np.empty((len(rows), *spec.shape), spec.dtype)
    windows.gather(rows, [name], out={name: out})
    assert same(out, stored.gather(rows, [name])[name])
    with pytest.raises(ConfigError, match="no column 'nothing'"):
        windows.gather([0], ["nothing"])
    assert {name: (spec.dtype, spec.shape, spec.unit, spec.table) for name, spec in windows.columns.items()} == {
        name: (spec.dtype, spec.shape, spec.unit, spec.table) for name, spec in stored.columns.items()
    }


def test_metadata_tables_select_and_split_as_those_of_shards(both):
    windows, stored = both
    ours, theirs = windows.metadata_table(), stored.metadata_table()
    assert set(ours.names) == set(theirs.names)
    for name in set(theirs.names) - set(NUMBERING):
        assert ours.values(name).tolist() == theirs.values(name).tolist()
    a, b = split(windows, by="time", column=None), split(stored, by="time", column=None)
    assert {name: rows.tolist() for name, rows in a.rows.items()} == {
        name: rows.tolist() for name, rows in b.rows.items()
    }


@pytest.mark.parametrize(
    "options", [{"shuffle": False}, {"shuffle": "global"}, {"shuffle": "global", "split": "train"}]
)
@pytest.mark.parametrize("workers", [{"num_workers": 0}, {"num_workers": 2}])
def test_loaders_give_the_batches_of_stored_windows(store, tmp_path, options, workers):
    files, folder = store({"a": session(8), "b": session(2)}, piece_bytes=3_000)
    convert_inputs(files, tmp_path / "windows", {"windows": WINDOWS, "shard_size": 9})
    common = {"batch_size": 7, "ragged": "packed", "pin_memory": False, **options, **workers}
    ours = create_webdataset_dataloader(folder, windows=WINDOWS, **common)
    theirs = create_webdataset_dataloader(tmp_path / "windows", **common)
    if options["shuffle"] is False or options.get("split") is None:
        assert len(ours) == len(theirs)
    found, expected = drained(ours), drained(theirs)
    assert found == expected


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_worker_processes_give_the_same(store, context):
    if context == "spawn" and "pydevd" in sys.modules:
        pytest.skip("a debugger does not follow")
    _, folder = store({"a": session(8)}, piece_bytes=3_000)
    one = create_webdataset_dataloader(folder, 8, 0, windows=WINDOWS, shuffle="global", pin_memory=False)
    two = create_webdataset_dataloader(
        folder,
        8,
        2,
        windows=WINDOWS,
        shuffle="global",
        pin_memory=False,
        worker_type="process",
        multiprocessing_context=context,
    )
    assert drained(one) == drained(two)


@settings(max_examples=8, phases=[Phase.generate])
@given(stop=st.integers(0, 9), ranks=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 3)]), data=st.data())
def test_a_run_that_is_killed_anywhere_goes_on_exactly(recorded, stop, ranks, data):
    before, after = ranks
    make = lambda rank, world: create_webdataset_dataloader(  # noqa: E731
        recorded,
        4,
        0,
        windows=WINDOWS,
        shuffle="global",
        pin_memory=False,
        rank=rank,
        world_size=world,
        columns=["spikes"],
    )
    loaders = [make(rank, before) for rank in range(before)]
    iterators = [iter(loader) for loader in loaders]
    stop = min(stop, len(loaders[0]) - 1)
    seen = [m["sample_id"] for _ in range(stop) for it in iterators for m in next(it)["metadata"]]
    state = json.loads(json.dumps(loaders[0].state_dict()))
    again = [make(rank, after) for rank in range(after)]
    for loader in again:
        loader.load_state_dict(state)
    rest = [m["sample_id"] for loader in again for batch in loader for m in batch["metadata"]]
    whole = [m["sample_id"] for batch in make(0, 1) for m in batch["metadata"]]
    assert sorted(set(seen + rest)) == sorted(whole)
    assert len(seen + rest) - len(whole) < before + after, "more than padding repeats"


def test_states_belong_to_data_and_options(recorded):
    loader = create_webdataset_dataloader(recorded, 4, 0, windows=WINDOWS, pin_memory=False)
    next(iter(loader))
    other = create_webdataset_dataloader(recorded, 4, 0, windows={**WINDOWS, "stride": 7}, pin_memory=False)
    with pytest.raises(NeurofmShardsError, match="fingerprint"):
        other.load_state_dict(loader.state_dict())


def test_iterable_and_map_style_loaders_take_windows(recorded, tmp_path):
    with open_windows(recorded, WINDOWS) as windows:
        expected = [m["window_start_s"] for m in windows.metadata(np.arange(windows.num_samples))]
        dataset = ShardDataset(recorded, windows=WINDOWS)
        assert len(dataset) == windows.num_samples
        assert [dataset[i]["metadata"]["window_start_s"] for i in range(len(dataset))] == expected
        assert dataset["sample_000000003"]["metadata"]["sample_id"] == "sample_000000003"
        assert dataset.table("units") == windows.table("units")
    found = [s["metadata"]["window_start_s"] for s in WebDatasetLoader(recorded, shuffle=False, windows=WINDOWS)]
    assert found == expected
    path = tmp_path / "state.json"
    loader = ResumableWebDatasetLoader(recorded, path, shuffle=False, windows=WINDOWS)
    first = [sample["metadata"]["window_start_s"] for _, sample in zip(range(5), loader, strict=False)]
    again = ResumableWebDatasetLoader(recorded, path, shuffle=False, windows=WINDOWS)
    assert first + [s["metadata"]["window_start_s"] for s in again] == expected
    with pytest.raises(ConfigError, match="windows are cut when they are read"):
        ShardDataset(recorded, windows=WINDOWS, decode=False)[0]


def test_windows_are_a_dict_options_or_a_job_file(recorded, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text("sequence_length = 20\n[windows]\nmodalities = ['spikes']\nunit_table_path = 'units'\n")
    said = {"sequence_length": 20, "modalities": ["spikes"], "unit_table_path": "units"}
    for windows in (said, WindowOptions(**said), job, str(job)):
        with open_windows(recorded, windows) as found:
            assert found.columns["spikes"].shape[0] == 20
            assert found.num_samples > 5
    with pytest.raises(ConfigError, match="windows: .*sequence_lenght"):
        open_windows(recorded, {"sequence_lenght": 20})
    for nothing in (3, [said], None):
        with pytest.raises(ConfigError, match="windows are a dict of options, WindowOptions or the path"):
            open_windows(recorded, nothing)


@pytest.mark.parametrize(
    "beyond",
    [
        {"bin_size_ms": 1e15},
        {"bin_size_ms": 1e300},
        {"sequence_length": 10**15},
        {"stride": 10**14},
        {"margin_ms": 1e20, "sampling": "trial"},
        {"align_range_ms": (-1e18, -1e18 + 1024), "bin_size_ms": 128.0, "sampling": "trial"},
    ],
)
def test_windows_beyond_what_ticks_count_are_refused_and_not_an_overflow(recorded, beyond):
    with pytest.raises(ConfigError, match="last decades, which no recording does"):
        open_windows(recorded, {"modalities": ["spikes"], "unit_table_path": "units", **beyond})


def test_batching_mixing_and_filters_work_on_windows(recorded):
    common = {"num_workers": 0, "pin_memory": False, "windows": WINDOWS, "columns": ["spikes", "spike_times"]}
    for batching in (OneSession(), Balanced("session_id"), TokenBudget(200, column="spike_times")):
        sessions = [
            {m["session_id"] for m in batch["metadata"]}
            for batch in create_webdataset_dataloader(recorded, 4, batching=batching, **common)
        ]
        assert len(sessions) > 3
        if isinstance(batching, OneSession):
            assert all(len(one) == 1 for one in sessions)
    chosen = create_webdataset_dataloader(recorded, 4, where="session_id == 'a' and window_start_s > 5", **common)
    found = [m for batch in chosen for m in batch["metadata"]]
    assert {m["session_id"] for m in found} == {"a"}
    assert min(m["window_start_s"] for m in found) > 5
    mixture = mix([open_windows(recorded, WINDOWS), open_windows(recorded, {**WINDOWS, "stride": 3})], [1, 1])
    loader = create_webdataset_dataloader(mixture, 4, 0, pin_memory=False, columns=["spikes"])
    assert sum(len(batch["metadata"]) for batch in loader) > 10
    with pytest.raises(ConfigError, match="windows= cannot be used with a mixture"):
        create_webdataset_dataloader(mixture, windows=WINDOWS)


def test_plans_and_reports_take_windows(recorded, capsys):
    assert run(["plan", str(recorded), "--windows", json.dumps(WINDOWS), "--json"]) == 0
    with open_windows(recorded, WINDOWS) as windows:
        assert json.loads(capsys.readouterr().out)["num_samples"] == windows.num_samples
        assert run(["shuffle-report", str(recorded), "--windows", json.dumps(WINDOWS), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["num_samples"] == windows.num_samples
    assert run(["plan", str(recorded), "--windows", "{"]) == 2


def test_streams_that_nobody_asked_for_are_not_read(recorded, monkeypatch):
    read = set()
    array = ShardCollection.array
    monkeypatch.setattr(
        ShardCollection, "array", lambda self, row, column, *a: read.add(column) or array(self, row, column, *a)
    )
    loader = create_webdataset_dataloader(
        recorded, 4, 0, windows={**WINDOWS, "modalities": ["spikes"]}, pin_memory=False, columns=["spikes"]
    )
    next(iter(loader))
    assert {name.rpartition("_")[0] for name in read} == {"units"}


def test_windows_found_before_are_not_found_again(recorded, monkeypatch):
    options = {**WINDOWS, "stride": 11}
    with open_windows(recorded, options) as first:
        expected = first.num_samples, list(first.columns.values()), first.fingerprint
    monkeypatch.setattr("neurofm_shards.stored.plan._find", lambda *_: pytest.fail("found again"))
    with open_windows(recorded, options) as again:
        assert (again.num_samples, list(again.columns.values()), again.fingerprint) == expected


def test_a_damaged_plan_is_found_again(recorded):
    options = {**WINDOWS, "stride": 13}
    with open_windows(recorded, options) as first:
        expected = first.num_samples
        mark = first.fingerprint
    path = recorded / ".neurofm" / "windows" / f"{mark}.plan"
    path.write_bytes(path.read_bytes()[:-9] + b"damaged!!")
    with open_windows(recorded, options) as again:
        assert again.num_samples == expected


@pytest.mark.parametrize("name", ["kinds", "rows", "runs"])
@pytest.mark.parametrize("number", [-1, 1 << 40])
def test_a_plan_whose_numbers_name_nothing_is_found_again(recorded, name, number):
    options = {**WINDOWS, "stride": 13}
    with open_windows(recorded, options) as first:
        expected, mark = first.gather(np.arange(first.num_samples), ["lfp"])["lfp"], first.fingerprint
    path = recorded / ".neurofm" / "windows" / f"{mark}.plan"
    header, arrays = read_arrays(path)
    wrong = arrays[name].astype(np.int64)
    wrong.flat[0] = number
    write_arrays(path, {key: header[key] for key in header if key != "arrays"}, {**arrays, name: wrong})
    with open_windows(recorded, options) as again:
        assert same(again.gather(np.arange(again.num_samples), ["lfp"])["lfp"], expected)


def test_threads_share_a_collection_and_closing_waits_for_them(recorded):
    windows = open_windows(recorded, WINDOWS)
    expected = windows.gather(np.arange(20), ["lfp"])["lfp"]
    closed = []

    def read():
        try:
            while True:
                assert same(windows.gather(np.arange(20), ["lfp"])["lfp"], expected)
        except ClosedError:
            closed.append(True)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    windows.close()
    for thread in threads:
        thread.join()
    assert len(closed) == 4
    with pytest.raises(ClosedError):
        windows.gather([0])


def test_windows_are_pickled_by_where_they_lie(recorded):
    with open_windows(recorded, WINDOWS) as windows, pickle.loads(pickle.dumps(windows)) as other:
        assert_same_samples(other, windows)


def test_appending_recordings_keeps_the_state_of_runs_in_storage_order(store, made, tmp_path):
    files, folder = store({"a": session(8), "b": session(2)})
    unsplit = {**WINDOWS, "split": None}
    loader = create_webdataset_dataloader(folder, 4, 0, windows=unsplit, shuffle=False, pin_memory=False)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    more = made.file_of(tmp_path / "in", "c", session(4))
    convert_inputs([*files, more], folder, {"layout": "recordings"}, mode="append")
    longer = create_webdataset_dataloader(folder, 4, 0, windows=unsplit, shuffle=False, pin_memory=False)
    longer.load_state_dict(state)
    assert next(iter(longer))["metadata"][0]["window_start_s"] == next(iterator)["metadata"][0]["window_start_s"]


def test_damage_is_found_before_its_windows_are_delivered(store):
    _, folder = store({"a": session(8)})
    path = folder / "shard_000000.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"lfp_values") + 5_000] ^= 1
    open_windows(folder, WINDOWS).close()
    stat = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with open_windows(folder, WINDOWS, verify=True) as windows, pytest.raises(IntegrityError):
        windows.gather([0])


@pytest.mark.skipif(sys.platform != "linux", reason="mapped memory is not told elsewhere")
def test_mapped_pages_are_let_go_and_read_again(store, monkeypatch):
    values = np.arange(6_000_000, dtype=np.int16).reshape(-1, 200)
    _, folder = store({"a": [regular("lfp", values, 1000.0, unit="V", scale=1e-3)]})
    options = {"modalities": ["lfp"], "sequence_length": 10, "overlap": 0.0}
    with open_windows(folder, options) as windows:
        rows = np.arange(windows.num_samples)
        before = windows.gather(rows)["lfp"]
        held = mapped_bytes()
        windows._collection.forget_pages()
        assert mapped_bytes() < held - values.nbytes / 2
        monkeypatch.setattr("neurofm_shards.stored.windows.MAPPED_BYTES", 0)
        monkeypatch.setattr(windows, "_may_fill_memory", True)
        forgotten = []
        forget = windows._collection.forget_pages
        monkeypatch.setattr(windows._collection, "forget_pages", lambda: forgotten.append(forget()))
        parts = [windows.gather(rows[first : first + 10])["lfp"] for first in range(0, len(rows), 10)]
        assert len(forgotten) >= len(parts) // 8 > 0
        np.testing.assert_array_equal(np.concatenate(parts), before)


def test_data_sets_of_windows_refuse_to_be_cut_again(store, tmp_path):
    files, folder = store({"a": session(8)})
    convert_inputs(files, tmp_path / "windows", {"windows": WINDOWS})
    with pytest.raises(ConfigError, match="--layout recordings"):
        create_webdataset_dataloader(tmp_path / "windows", windows=WINDOWS)
    pieces = create_webdataset_dataloader(folder, 1, 0, pin_memory=False)
    assert next(iter(pieces))["metadata"][0]["pieces"] == 1, "without windows, it gives its pieces"


@pytest.mark.parametrize("compression", ["gz"])
def test_compressed_recordings_give_the_same_windows(store, tmp_path, compression):
    files, folder = store({"a": session(8)}, piece_bytes=3_000, compression=compression)
    convert_inputs(files, tmp_path / "windows", {"windows": WINDOWS})
    with open_windows(folder, WINDOWS) as windows, ShardCollection.open(tmp_path / "windows") as stored:
        assert_same_samples(windows, stored)
