"""A stored recording gives the windows that the recording itself gives, bit for bit.

Broken on purpose, each of these is caught here: stamps stored as ticks, owners of pieces not put together, rows of a
piece counted from the recording's start, observed spans forgotten, a timeline found anew from sorted times.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_recordings import MadeSource, file_of, options_of, session, window_options

from neurofm_shards import convert_inputs
from neurofm_shards.blocks import MISSING
from neurofm_shards.errors import ConfigError, FormatError, NeurofmShardsError, SourceError
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.maintenance.merge import merge
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings import InMemoryRecording, windowed
from neurofm_shards.recordings.memory import events, irregular, regular
from neurofm_shards.recordings.pieces import RecordingPieces
from neurofm_shards.stored.recording import StoredRecording, held
from neurofm_shards.types import Ragged
from neurofm_shards.writing.shard_writer import ShardWriter


def store_pieces(folder, recording, piece_bytes):
    """Write the pieces of a recording into shards of two samples each."""
    with RecordingPieces(recording, piece_bytes) as samples:
        for k, start in enumerate(range(0, len(samples), 2)):
            with ShardWriter(Path(folder) / f"shard_{k:06d}.tar", k, codec="npy") as writer:
                stop = min(start + 2, len(samples))
                writer.write_block(samples.read(start, stop), np.arange(start, stop) + 1)
        return samples.plan()


def same(a, b):
    """Say whether two columns hold the same bits."""
    if isinstance(a, Ragged):
        return isinstance(b, Ragged) and same(a.values, b.values) and same(a.offsets, b.offsets)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def outcome(recording, options):
    """Return all that a recording gives with these options, or the error."""
    try:
        with windowed(recording, options) as samples:
            plan = samples.plan()
            return plan, samples.read(0, plan.num_samples)
    except NeurofmShardsError as error:
        return type(error), str(error)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 40),
    said=window_options(),
    piece_bytes=st.sampled_from([64, 700, 5_000, 1 << 30]),
)
def test_windows_of_a_stored_recording_are_those_of_the_recording(seed, said, piece_bytes):
    options, source = options_of(said), MadeSource()
    with tempfile.TemporaryDirectory() as folder:
        name = file_of(folder, f"s{seed}", session(seed, 8.0))
        store_pieces(folder, source.open((name,)), piece_bytes)
        expected = outcome(source.open((name,)), options)
        with ShardCollection.open(folder) as collection:
            (found,) = held(collection)
            got = outcome(StoredRecording(collection, found), options)
    assert got[0] == expected[0]
    if isinstance(expected[1], str):
        assert got[1] == expected[1]
        return
    assert got[1].metadata == expected[1].metadata
    assert list(got[1].columns) == list(expected[1].columns)
    for name, data in expected[1].columns.items():
        assert same(data, got[1].columns[name]), name


@settings(max_examples=6)
@given(piece_bytes=st.integers(300, 3_000), seed=st.integers(0, 5))
def test_every_row_is_in_exactly_one_piece_and_pieces_are_as_small_as_asked(piece_bytes, seed):
    recording = InMemoryRecording(session(seed, 4.0))
    with RecordingPieces(recording, piece_bytes) as samples:
        plan = samples.plan()
        block = samples.read(0, plan.num_samples)
        for spec in plan.columns[1:]:
            joined = np.concatenate(block.columns[spec.name])
            whole = RecordingPieces(recording).read(0, 1).columns[spec.name][0]
            assert same(joined, whole), spec.name
        assert [value is MISSING for value in block.columns["recording"]] == [i > 0 for i in range(plan.num_samples)]
        moments = np.unique(np.concatenate([block.columns["units_ticks"][i] for i in range(plan.num_samples)]))
        assert plan.num_samples <= sum(plan.sample_bytes) / piece_bytes + len(moments) + 1000
        for i, size in enumerate(plan.sample_bytes):
            ticks = block.columns["units_ticks"][i]
            assert size <= piece_bytes or len(np.unique(ticks)) <= 2, "more than one moment in too large a piece"


@settings(max_examples=8)
@given(piece_bytes=st.sampled_from([1, 40, 333, 1 << 20]), bin_ms=st.sampled_from([1.0, 7.0]))
def test_a_tiling_holds_every_spike_once_whatever_the_pieces(piece_bytes, bin_ms):
    rng = np.random.default_rng(int(bin_ms))
    times = {f"u{i}": np.sort(rng.uniform(0, 3, 100)) for i in range(3)}
    options = options_of({"bin_size_ms": bin_ms, "sequence_length": 10, "overlap": 0.0, "on_last_window": "pad"})
    with tempfile.TemporaryDirectory() as folder:
        store_pieces(folder, InMemoryRecording([events("units", times)]), piece_bytes)
        with ShardCollection.open(folder) as collection:
            samples = windowed(StoredRecording(collection, held(collection)[0]), options)
            counts = samples.read(0, samples.plan().num_samples).columns["spikes"]
    assert counts.sum(axis=(0, 1)).tolist() == [100, 100, 100]


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_streams_are_what_they_were(tmp_path, io):
    original = session(3, 6.0)
    store_pieces(tmp_path, InMemoryRecording(original, session_id="s", problems=[]), 900)
    with ShardCollection.open(tmp_path, io=io) as collection:
        stored = StoredRecording(collection, held(collection)[0])
        for before, after in zip(original, stored.streams, strict=True):
            assert (before.path, before.modality) == (after.path, after.modality)
            if hasattr(before, "shape"):
                assert same(before.read(2, 9), after.read(2, 9))
                assert same(before.read(0, before.shape[0]), after.read(0, before.shape[0]))
            if hasattr(before, "timestamps"):
                assert same(np.asarray(before.timestamps()), np.asarray(after.timestamps()))
            if hasattr(before, "start"):
                np.testing.assert_array_equal(before.start, after.start)
                np.testing.assert_array_equal(before.stop, after.stop)


def test_nothing_but_the_description_is_read_to_plan_windows(tmp_path, monkeypatch):
    store_pieces(tmp_path, InMemoryRecording(session(1, 6.0)), 1 << 20)
    with ShardCollection.open(tmp_path) as collection:
        read = []
        array = ShardCollection.array
        monkeypatch.setattr(
            ShardCollection, "array", lambda self, row, column, *a: read.append(column) or array(self, row, column, *a)
        )
        options = options_of({"modalities": ("spikes",), "sequence_length": 5})
        samples = windowed(StoredRecording(collection, held(collection)[0]), options)
        samples.plan()
        assert {name.removesuffix("_ticks").removesuffix("_owner") for name in read} <= {"units"}
        samples.read(0, 2)
        assert set(read) <= {"units_ticks", "units_owner"}, "streams that nobody asked for were read"


def test_a_stream_that_cannot_be_read_fails_in_the_same_words_when_it_is_asked_for(tmp_path):
    def fail(*_):
        raise SourceError("chunk 3 is damaged")

    bad = irregular("bad", np.zeros((5, 1)), np.arange(5.0))
    streams = [events("units", {"a": np.arange(9) + 0.5}), bad.__class__(**{**bad.__dict__, "timestamps": fail})]
    store_pieces(tmp_path, InMemoryRecording(streams), 1 << 20)
    with ShardCollection.open(tmp_path) as collection:
        for modalities, error in ((("spikes",), None), (("behavior",), "chunk 3 is damaged")):
            options = options_of({"modalities": modalities, "suspicious_spike_times": "allow"})
            found = outcome(StoredRecording(collection, held(collection)[0]), options)
            assert found == (SourceError, error) if error else found[0].num_samples > 0


def test_texts_are_described_and_not_stored(tmp_path):
    words = regular("words", np.array(["a", "b", "c"]), 1.0, modality="behavior")
    plan = store_pieces(tmp_path, InMemoryRecording([words, regular("x", np.zeros((30, 1)), 10.0)]), 1 << 20)
    assert "words_values" not in {spec.name for spec in plan.columns}
    assert any("not stored" in problem.consequence for problem in plan.problems)
    with ShardCollection.open(tmp_path) as collection:
        stream = StoredRecording(collection, held(collection)[0]).streams[0]
        with pytest.raises(SourceError, match="no numbers"):
            stream.read(0, 1)


def test_missing_pieces_and_foreign_data_sets_are_refused(tmp_path):
    store_pieces(tmp_path, InMemoryRecording(session(2, 6.0)), 500)
    (tmp_path / "shard_000001.tar").unlink()
    with ShardCollection.open(tmp_path) as collection, pytest.raises(FormatError, match="some were dropped"):
        held(collection)
    other = tmp_path / "other"
    other.mkdir()
    with ShardWriter(other / "shard_000000.tar", 0) as writer:
        writer.write_sample(1, {"x": np.zeros(3)})
    with ShardCollection.open(other) as collection, pytest.raises(ConfigError, match="--layout recordings"):
        held(collection)


WINDOWS = {"modalities": ["spikes", "behavior"], "missing": "mask", "sequence_length": 20, "unit_table_path": "units"}


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar*"))}


@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.parametrize("piece_bytes", [2_000, 1 << 28])
def test_windows_cut_from_stored_recordings_are_the_bytes_of_those_cut_from_the_files(
    store, tmp_path, compression, piece_bytes
):
    sessions = {"a": session(8), "b": session(2, lfp=False), "c": session(4, behavior=False)}
    files, folder = store(sessions, piece_bytes=piece_bytes, shard_bytes=9_000, compression=compression)
    config = {"windows": WINDOWS, "shard_size": 7}
    convert_inputs(files, tmp_path / "direct", config)
    convert_inputs(folder, tmp_path / "again", config)
    assert shards(tmp_path / "direct") == shards(tmp_path / "again")
    for table in ("units", "features"):
        name = f".neurofm/tables/{table}.json"
        assert (tmp_path / "direct" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_shards_hold_one_recording_and_are_bounded_by_bytes(store):
    sessions = {"a": session(8), "b": session(2), "c": session(4)}
    _, folder = store(sessions, piece_bytes=1_000, shard_bytes=8_000)
    with ShardCollection.open(folder) as collection:
        table = collection.metadata_table()
        names = table.values("session_id")
        for k in range(len(collection.shard_names)):
            rows = slice(collection.starts[k], collection.starts[k + 1])
            assert len(set(names[rows])) == 1
        sizes = [
            sum((c.payload_sizes - 128).clip(0).sum() for name, c in collection.index(k).columns.items() if "_" in name)
            for k in range(len(collection.shard_names))
        ]
        assert len(sizes) > 3
        assert max(sizes) <= 8_000
    shutil.rmtree(folder)
    _, folder = store(sessions)
    assert len(shards(folder)) == 3, "small recordings have a shard, and so a task, each"


def test_plain_readers_open_the_pieces(store):
    streams = session(8)
    _, folder = store({"a": streams})
    with tarfile.open(folder / "shard_000000.tar") as tar:
        said = json.load(tar.extractfile("sample_000000001.recording.json"))
        assert said["session_id"] == "a"
        values = np.load(io.BytesIO(tar.extractfile("sample_000000001.lfp_values.npy").read()))
        metadata = json.load(tar.extractfile("sample_000000001.metadata.json"))
        assert tar.getnames()[0] == "sample_000000001.recording.json", "the description comes first"
    lfp = next(stream for stream in streams if stream.path == "acquisition/lfp")
    assert values.dtype == np.int16
    np.testing.assert_array_equal(values, lfp.read(0, lfp.shape[0]))
    assert metadata["session_id"] == "a"
    assert (metadata["piece"], metadata["pieces"]) == (0, 1)


def test_recordings_are_appended_dropped_merged_repaired_and_validated(store, made, tmp_path):
    files, folder = store({"a": session(8), "b": session(2)}, piece_bytes=3_000)
    more = made.file_of(tmp_path / "in", "c", session(4, lfp=False))
    convert_inputs([*files, more], folder, {"layout": "recordings", "piece_bytes": 3_000}, mode="append")
    assert validate_dataset(folder).ok
    convert_inputs([*files, more], tmp_path / "direct", {"windows": WINDOWS})
    convert_inputs(folder, tmp_path / "again", {"windows": WINDOWS})
    assert shards(tmp_path / "direct") == shards(tmp_path / "again")

    drop_samples(folder, "session_id == 'b'")
    assert validate_dataset(folder).ok
    convert_inputs([files[0], more], tmp_path / "direct2", {"windows": WINDOWS})
    convert_inputs(folder, tmp_path / "again2", {"windows": WINDOWS})
    assert shards(tmp_path / "direct2") == shards(tmp_path / "again2")

    _, other = store({"d": session(10, behavior=False)}, "other")
    merge([folder, other], tmp_path / "merged")
    assert validate_dataset(tmp_path / "merged").ok
    inputs = [files[0], more, str(tmp_path / "in" / "d.made")]
    convert_inputs(inputs, tmp_path / "direct3", {"windows": WINDOWS})
    convert_inputs(tmp_path / "merged", tmp_path / "again3", {"windows": WINDOWS})
    assert shards(tmp_path / "direct3") == shards(tmp_path / "again3")

    (tmp_path / "merged" / "dataset_metadata.json").unlink()
    repair(tmp_path / "merged")
    assert validate_dataset(tmp_path / "merged").ok
    convert_inputs(tmp_path / "merged", tmp_path / "again4", {"windows": WINDOWS})
    assert shards(tmp_path / "direct3") == shards(tmp_path / "again4")


def test_workers_change_no_byte(store, made, tmp_path):
    files, folder = store({"a": session(8), "b": session(2)}, piece_bytes=3_000)
    options = {"layout": "recordings", "piece_bytes": 3_000}
    convert_inputs(files, tmp_path / "many", options, workers=3, executor="threads")
    assert shards(folder) == shards(tmp_path / "many")
    assert (folder / "dataset_metadata.json").read_bytes() == (tmp_path / "many/dataset_metadata.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "recordings", "windows": {"sequence_length": 3}}, "choose them when the data set is loaded"),
        ({"layout": "recordings", "transforms": ["zscore"]}, "without windows or transforms"),
        ({"piece_bytes": 5}, "say layout=recordings too"),
    ],
)
def test_options_that_do_not_fit_the_layout_are_refused(store, tmp_path, options, message):
    files, _ = store({"a": session(8)})
    with pytest.raises(ConfigError, match=message):
        convert_inputs(files, tmp_path / "out", options)


def test_samples_that_are_cut_already_are_no_recordings(store, tmp_path):
    files, _ = store({"a": session(8)})
    convert_inputs(files, tmp_path / "windows", {"windows": WINDOWS})
    with pytest.raises(ConfigError, match="cannot be cut again"):
        convert_inputs(tmp_path / "windows", tmp_path / "out")


def test_a_recording_can_be_stored_again(store, tmp_path):
    _, folder = store({"a": session(8), "b": session(2)}, piece_bytes=3_000)
    convert_inputs(folder, tmp_path / "again", {"layout": "recordings", "piece_bytes": 3_000})
    assert shards(folder) == shards(tmp_path / "again")


def test_a_data_set_of_windows_says_nothing_of_how_recordings_would_be_stored(store, tmp_path):
    files, folder = store({"a": session(8)})
    convert_inputs(files, tmp_path / "windows", {"windows": WINDOWS})
    config = json.loads((tmp_path / "windows/dataset_metadata.json").read_text())["config"]
    assert not {"layout", "shard_bytes", "piece_bytes"} & set(config)
    assert json.loads((folder / "dataset_metadata.json").read_text())["config"]["layout"] == "recordings"
