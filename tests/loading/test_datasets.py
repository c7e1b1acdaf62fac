"""ShardDataset: samples by number, key and slice, through torch's own samplers and workers; and what info says."""

from __future__ import annotations

import io
import operator
import pickle

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Subset, WeightedRandomSampler, random_split

from neurofm_shards.errors import ClosedError, ConfigError, InputNotFoundError, SampleIndexError, SampleNotFoundError
from neurofm_shards.loading.datasets import ShardDataset
from neurofm_shards.loading.tensors import collate_webdataset
from neurofm_shards.reading.info import ShardedDatasetInfo
from neurofm_shards.writing.dataset_writer import WebDatasetWriter

COUNT = 23


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "spikes": rng.poisson(1.0, (COUNT, 10, 6)).astype("u1"),
        "behavior": rng.standard_normal((COUNT, 10, 2)).astype("f4"),
    }


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    where = tmp_path_factory.mktemp("data") / "shards"
    with WebDatasetWriter(where, shard_size=7) as writer:
        for i in range(COUNT):
            sample = {name: values[i] for name, values in arrays.items()}
            writer.write_sample(sample | {"rate": i / 2, "cue": "left"}, metadata={"trial": i, "even": i % 2 == 0})
    return where


@pytest.fixture
def dataset(folder):
    opened = ShardDataset(folder)
    yield opened
    opened.close()


def test_samples_by_number(dataset, arrays):
    assert len(dataset) == COUNT
    for i in (0, 6, 7, COUNT - 1, -1, -COUNT, np.int64(3), torch.tensor(4)):
        sample = dataset[i]
        place = operator.index(i) % COUNT
        assert sample["spikes"].dtype == torch.float32
        np.testing.assert_array_equal(sample["spikes"], arrays["spikes"][place])
        np.testing.assert_array_equal(sample["behavior"], arrays["behavior"][place])
        assert (sample["rate"], sample["cue"], sample["metadata"]["trial"]) == (place / 2, "left", place)


def test_samples_by_key_and_slice(dataset):
    assert dataset["sample_000000009"]["metadata"]["trial"] == 8
    assert [sample["metadata"]["trial"] for sample in dataset[-3:]] == [20, 21, 22]
    assert [sample["metadata"]["trial"] for sample in dataset[20:3:-8]] == [20, 12, 4]
    assert dataset.keys()[-1] == "sample_000000023"
    with pytest.raises(SampleNotFoundError):
        dataset["sample_000000024"]


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1, 10**12])
def test_numbers_out_of_range_are_index_errors(dataset, index):
    with pytest.raises(SampleIndexError, match=f"no sample {index}: the data set has {COUNT}"):
        dataset[index]
    with pytest.raises(IndexError):
        dataset.__getitems__([0, index])


def test_iterating_ends(dataset):
    assert sum(1 for _ in dataset) == COUNT


def test_only_what_is_asked_for_is_there(folder, arrays):
    sample = ShardDataset(folder, columns=["behavior"], metadata=False)[2]
    assert list(sample) == ["behavior"]
    assert ShardDataset(folder, counts="stored")[2]["spikes"].dtype == torch.uint8
    with pytest.raises(ConfigError, match="no column 'lfp'"):
        ShardDataset(folder, columns=["lfp"])


def test_stored_bytes_on_request(folder):
    sample = ShardDataset(folder, decode=False)[2]
    assert {name: type(value) for name, value in sample.items()} == dict.fromkeys(
        ["spikes", "behavior", "rate", "cue", "metadata"], bytes
    )
    assert sample["rate"] == b"1.0"
    with pytest.raises(ConfigError, match="decode=False"):
        ShardDataset(folder, decode=False, transform=dict)


def test_a_transform_is_given_each_sample(folder):
    dataset = ShardDataset(folder, transform=lambda sample: {"total": sample["spikes"].sum()})
    assert dataset[3].keys() == {"total"}
    assert [list(sample) for sample in dataset.__getitems__([1, 2])] == [["total"], ["total"]]


def test_a_selection_is_a_data_set_of_its_own(folder):
    chosen = ShardDataset(folder, where="even == True")
    assert [sample["metadata"]["trial"] for sample in chosen] == list(range(0, COUNT, 2))
    assert chosen["sample_000000003"]["metadata"]["trial"] == 2
    assert chosen[-1]["metadata"]["trial"] == 22
    with pytest.raises(SampleNotFoundError, match="not among those selected"):
        chosen["sample_000000002"]
    with pytest.raises(ConfigError, match="no sample .* is left"):
        ShardDataset(folder, where="trial > 99")


@pytest.mark.parametrize(
    ("workers", "context"), [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)]
)
def test_torch_loaders_and_samplers_work(folder, arrays, workers, context):
    dataset = ShardDataset(folder)
    loader = DataLoader(
        dataset,
        batch_size=5,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate_webdataset,
        multiprocessing_context=context,
    )
    seen = []
    for batch in loader:
        trials = [entry["trial"] for entry in batch["metadata"]]
        np.testing.assert_array_equal(batch["behavior"], arrays["behavior"][trials])
        seen += trials
    assert sorted(seen) == list(range(COUNT))


def test_other_samplers_work(dataset):
    weighted = WeightedRandomSampler([1.0] * 5 + [0.0] * (COUNT - 5), 20)
    trials = [s["metadata"]["trial"] for batch in BatchSampler(weighted, 4, False) for s in dataset.__getitems__(batch)]
    assert set(trials) <= set(range(5))
    train, test = random_split(dataset, [20, 3])
    found = [sample["metadata"]["trial"] for part in (train, test) for sample in part]
    assert sorted(found) == list(range(COUNT))
    loader = DataLoader(Subset(dataset, [4, 2]), batch_size=2, collate_fn=collate_webdataset)
    assert next(iter(loader))["rate"].tolist() == [2.0, 1.0]
    assert len(list(RandomSampler(dataset))) == COUNT


def test_a_pickled_copy_reads_the_same(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[5]["spikes"], dataset[5]["spikes"])
    copy.close()
    with pytest.raises(ClosedError):
        copy[5]
    dataset[5]


def test_info_sums_up_a_data_set(folder):
    summary = ShardedDatasetInfo(folder).get_summary()
    assert (summary["total_samples"], summary["total_shards"], summary["shard_size"]) == (COUNT, 4, 7)
    assert summary["compression"] == "none"
    assert {"spikes", "behavior", "rate", "cue"} <= set(summary["modalities"])
    assert summary["columns"]["spikes"]["shape"] == [10, 6]
    assert summary["columns"]["spikes"]["unit"] == "count"
    assert summary["total_bytes"] == sum(path.stat().st_size for path in folder.glob("*.tar"))
    stream = io.StringIO()
    ShardedDatasetInfo(folder).print_summary(Console(file=stream, width=120))
    assert "10 x 6" in stream.getvalue()
    assert f"{COUNT}" in stream.getvalue()


def test_info_knows_single_shards_foreign_folders_and_what_other_tools_cannot_read(folder, tmp_path):
    one = ShardedDatasetInfo(folder / "shard_000003.tar").get_summary()
    assert (one["total_samples"], one["origin"]) == (2, "foreign")
    with WebDatasetWriter(tmp_path / "bz2", compression="bz2") as writer:
        writer.write_sample({"x": np.zeros(3)})
    summary = ShardedDatasetInfo(tmp_path / "bz2").get_summary()
    assert summary["compression"] == "bz2"
    assert any("decoded from their beginning" in note for note in summary["notes"])
    with pytest.raises(InputNotFoundError):
        ShardedDatasetInfo(tmp_path / "nowhere")


TYPED = """
from neurofm_shards import ShardDataset, WebDatasetLoader, create_webdataset_dataloader
for batch in create_webdataset_dataloader("x"):
    reveal_type(batch)
for sample in WebDatasetLoader("x"):
    reveal_type(sample)
reveal_type(ShardDataset("x")[0])
reveal_type(ShardDataset("x")["a key"])
reveal_type(ShardDataset("x")[:3])
"""


def test_type_checkers_and_editors_know_batches_and_samples(tmp_path):
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    (tmp_path / "typed.py").write_text(TYPED)
    said, trouble, _ = api.run([str(tmp_path / "typed.py"), "--cache-dir", str(tmp_path / "cache")])
    found = [line.partition("Revealed type is ")[2].strip('"') for line in said.splitlines() if "Revealed" in line]
    sample = "neurofm_shards.loading.datasets.LoadedSample"
    assert [each.replace("builtins.", "") for each in found] == [
        *("dict[str, Any]", "dict[str, Any]", sample, sample, f"list[{sample}]")
    ], said + trouble
