"""A loader means the folder it was made for, and CPU tensors, whatever the process does later."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from neurofm_shards import (
    ResumableWebDatasetLoader,
    ShardDataset,
    ShardedDatasetInfo,
    WebDatasetLoader,
    WebDatasetWriter,
    create_webdataset_dataloader,
    mix,
)
from neurofm_shards.loading.batching import Balanced, OneSession, TokenBudget


@pytest.fixture
def relative(tmp_path, monkeypatch):
    """A folder of shards that is named by a relative path, and another working directory."""
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path)
    with WebDatasetWriter("data", shard_size=7, compression="gz") as writer:
        for i in range(40):
            writer.write_sample({"x": np.full((i % 3 + 1, 2), i)}, metadata={"row": i, "session_id": f"s{i % 4}"})
    return tmp_path / "job"


MAKERS = {
    "loader": lambda: WebDatasetLoader("data"),
    "dataset": lambda: ShardDataset("data"),
    "dataloader": lambda: create_webdataset_dataloader("data", 8, 0),
    "threads": lambda: create_webdataset_dataloader("data", 8, 2),
    "processes": lambda: create_webdataset_dataloader("data", 8, 2, worker_type="process"),
    "mix": lambda: create_webdataset_dataloader(mix(["data", "data"]), 8, 0),
    "resumable": lambda: ResumableWebDatasetLoader("data", "state.json"),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_loaders_go_on_after_chdir(relative, monkeypatch, make):
    made = make()
    monkeypatch.chdir(relative)
    assert len(list(made)) >= 5


def test_a_checkpoint_stays_where_it_was(relative, monkeypatch, tmp_path):
    loader = ResumableWebDatasetLoader("data", "state.json")
    monkeypatch.chdir(relative)
    samples = iter(loader)
    next(samples)
    samples.close()
    assert not (relative / "state.json").exists()
    assert json.loads((tmp_path / "state.json").read_text())["position"] == 1
    assert loader.load_checkpoint()


def test_info_goes_on_after_chdir(relative, monkeypatch):
    info = ShardedDatasetInfo("data")
    monkeypatch.chdir(relative)
    assert info.get_summary()["total_samples"] == 40


def test_a_writer_goes_on_after_chdir(relative, monkeypatch, tmp_path):
    writer = WebDatasetWriter("out", shard_size=3)
    for _ in range(10):
        writer.write_sample({"x": np.zeros(2)})
        monkeypatch.chdir(relative)
    writer.finalize()
    assert not (relative / "out").exists()
    assert len(ShardDataset(tmp_path / "out")) == 10


@pytest.fixture
def elsewhere():
    """A default device that is not the CPU."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("ragged", ["list", "pad", "packed", "nested"])
@pytest.mark.parametrize("workers", [(0, "thread"), (2, "thread"), (2, "process")])
@pytest.mark.parametrize("transform", [None, dict])
def test_batches_are_made_on_the_cpu(relative, monkeypatch, tmp_path, elsewhere, ragged, workers, transform):
    count, kind = workers
    loader = create_webdataset_dataloader(
        tmp_path / "data", 8, count, worker_type=kind, ragged=ragged, transform=transform
    )
    for batch in loader:
        tensors = [v for value in batch.values() for v in (value if isinstance(value, list) else [value])]
        devices = {value.device.type for value in tensors if isinstance(value, torch.Tensor)}
        assert devices == {"cpu"}


@pytest.mark.parametrize("batching", [OneSession(), Balanced("session_id"), TokenBudget(20, "x")])
def test_every_rule_of_batching_works_with_another_default_device(relative, tmp_path, elsewhere, batching):
    loader = create_webdataset_dataloader(tmp_path / "data", 8, 0, batching=batching)
    assert all(value.device.type == "cpu" for batch in loader for value in batch["x"])


def test_single_samples_are_made_on_the_cpu(relative, tmp_path, elsewhere):
    for made in (WebDatasetLoader(tmp_path / "data"), ShardDataset(tmp_path / "data")):
        assert {sample["x"].device.type for sample in made} == {"cpu"}
