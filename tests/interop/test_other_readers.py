"""Other programs open our shards and read the same numbers."""

from __future__ import annotations

import gc
import io
import os
import pickle
import re
import shlex
import subprocess
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import convert_inputs, create_shards_from_arrays

SAMPLES = 50
DATA = Path(os.environ.get("NEUROFM_SHARDS_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(1)
    return {"spikes": rng.poisson(0.4, (SAMPLES, 20, 4)).astype("u1"), "hand": rng.normal(size=(SAMPLES, 20, 2))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interop")


def written(folder, truth, codec, compression):
    """Write the data set once; return its folder."""
    place = folder / f"{codec}-{compression}"
    if not place.exists():
        metadata = [{"trial": i} for i in range(SAMPLES)]
        create_shards_from_arrays(place, truth, shard_size=20, codec=codec, compression=compression, metadata=metadata)
    return place


@pytest.mark.parametrize("compression", ["none", "gz", "bz2", "xz"])
def test_tar_lists_and_tarfile_reads_every_member(folder, truth, compression):
    shards = sorted(written(folder, truth, "npy", compression).glob("*.tar*"))
    names = []
    for shard in shards:
        listed = subprocess.run(["tar", "tf", str(shard)], capture_output=True, text=True, check=True)
        assert listed.stderr == ""
        names += listed.stdout.split()
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".hand.npy"):
                    i = int(member.name.split(".")[0].rpartition("_")[2]) - 1
                    np.testing.assert_array_equal(
                        np.load(io.BytesIO(archive.extractfile(member).read())), truth["hand"][i]
                    )
    expected = [
        f"sample_{i + 1:09d}.{field}" for i in range(SAMPLES) for field in ("spikes.npy", "hand.npy", "metadata.json")
    ]
    assert names == expected


@pytest.mark.parametrize("codec", ["pyd", "npy"])
@pytest.mark.parametrize("compression", ["none", "gz"])
def test_webdataset_decodes_the_same_numbers(folder, truth, codec, compression):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    shards = sorted(map(str, written(folder, truth, codec, compression).glob("*.tar*")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves compressed files to the collector
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
        gc.collect()
    assert [sample["metadata.json"]["trial"] for sample in samples] == list(range(SAMPLES))
    for name, values in truth.items():
        found = np.stack([sample[f"{name}.{codec}"] for sample in samples])
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)


@pytest.mark.plugins
@pytest.mark.parametrize("compression", ["none", "gz"])
@pytest.mark.filterwarnings("default")
def test_hugging_face_datasets_loads_the_folder(folder, truth, compression, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    place = written(folder, truth, "npy", compression)
    loaded = datasets.load_dataset(str(place), split="train", cache_dir=str(tmp_path / "cache"))
    assert [said["trial"] for said in loaded["metadata.json"]] == list(range(SAMPLES))
    for name, values in truth.items():
        np.testing.assert_array_equal(np.array(loaded[f"{name}.npy"][:], values.dtype), values)


def samples_in_tars(place):
    """Return the samples of a folder by key, read with tarfile alone."""
    found = {}
    for shard in sorted(place.glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                key, _, field = member.name.partition(".")
                found.setdefault(key, {})[field] = archive.extractfile(member).read()
    return found


@pytest.mark.plugins
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not (DATA / "A2929_head_direction.nwb").exists(), reason="the recording is not there")
def test_what_a_card_says_of_loading_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("neurofm_shards_nwb", "webdataset", "datasets"):
        pytest.importorskip(name)
    place = tmp_path / "shards"
    windows = {"split": {"by": "time"}, "modalities": ["spikes"], "stride": 400}
    convert_inputs([DATA / "A2929_head_direction.nwb"], place, {"windows": windows, "shard_size": 100})
    truth = samples_in_tars(place)
    card = (place / "README.md").read_text().replace("path/to/this/folder", str(place))
    blocks = re.findall(r"```(\w+)\n(.*?)```", card, re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "python", "python", "bash"]
    said = [run_block(code) for language, code in blocks if language == "python"]
    loaded = [sample for batch in said[0]["found"] for sample in batch["spikes"].numpy()]
    assert len(loaded) == len(truth) > 200
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves files to the collector
        decoded = list(said[1]["samples"])
        gc.collect()
    for sample in decoded:
        expected = pickle.loads(truth[sample["__key__"]]["spikes.pyd"])
        np.testing.assert_array_equal(sample["spikes.pyd"], expected)
        truth[sample["__key__"]]["seen"] = True
    assert all("seen" in sample for sample in truth.values())
    train = {key for key, sample in truth.items() if b'"split":"train"' in sample["metadata.json"].replace(b" ", b"")}
    rows = list(said[2]["samples"])
    assert {row["__key__"].rpartition("/")[2] for row in rows} == train
    assert {pickle.loads(row["spikes.pyd"]).shape for row in rows} == {(100, 15)}
    listed = subprocess.run(shlex.split(blocks[3][1]), capture_output=True, text=True, check=True)
    assert listed.stdout.split()[0] == f"{min(truth)}.spikes.pyd"


def run_block(code):
    """Run a block of Python; the batches of its loop are collected as ``found``."""
    names = {"found": []}
    exec(code.replace("    ...", "    found.append(batch)"), names)  # noqa: S102  (the card's own words)
    return names


@pytest.mark.plugins
@pytest.mark.filterwarnings("default")
def test_ray_reads_the_tar_files_of_the_folder(folder, truth):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")
    place = written(folder, truth, "npy", "none")
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    try:
        rows = ray.data.read_webdataset(str(place), file_extensions=["tar"]).take_all()
    finally:
        ray.shutdown()
    rows.sort(key=lambda row: row["metadata.json"]["trial"])
    assert len(rows) == SAMPLES
    for name, values in truth.items():
        np.testing.assert_array_equal(np.stack([row[f"{name}.npy"] for row in rows]), values)
