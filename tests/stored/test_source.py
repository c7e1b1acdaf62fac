"""Recordings stored by a conversion: cut again, added to, dropped from, merged, validated, repaired."""

from __future__ import annotations

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from made_recordings import session

from neurofm_shards import convert_inputs
from neurofm_shards.errors import ConfigError
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.maintenance.merge import merge
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.reading.collection import ShardCollection

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
