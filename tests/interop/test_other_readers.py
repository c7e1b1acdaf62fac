"""Other programs open our shards and read the same numbers."""

from __future__ import annotations

import gc
import io
import subprocess
import tarfile
import warnings

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays

SAMPLES = 50


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
