"""Batches mean what they say: names, masks, missing fields, metadata."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
import torch

from neurofm_shards import (
    ShardDataset,
    WebDatasetLoader,
    WebDatasetWriter,
    collate_webdataset,
    create_webdataset_dataloader,
)
from neurofm_shards.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:samples differ in their fields")


def written(folder, samples, **options):
    with WebDatasetWriter(folder, shard_size=8, **options) as writer:
        for i, sample in enumerate(samples):
            writer.write_sample(sample, metadata={"row": i})
    return folder


def ragged(i, **more):
    return {"x": np.full((i % 3 + 1, 2), i, np.float32), **more}


@pytest.mark.parametrize(("how", "taken"), [("pad", "x_mask"), ("packed", "x_offsets")])
@pytest.mark.parametrize("transform", [None, dict])
def test_a_stored_field_named_as_our_mask_is_an_error_with_the_remedy(tmp_path, how, taken, transform):
    folder = written(tmp_path, (ragged(i, **{taken: np.ones(4)}) for i in range(10)))
    with pytest.raises(ConfigError, match=rf"{taken}.*ragged="):
        list(create_webdataset_dataloader(folder, 4, 0, ragged=how, transform=transform))
    assert len(list(create_webdataset_dataloader(folder, 4, 0, ragged="list", transform=transform))) == 3
    other = create_webdataset_dataloader(folder, 4, 0, ragged=how, transform=transform, columns=["x"])
    assert taken in next(iter(other))


def test_collate_refuses_the_same(tmp_path):
    samples = [{"x": torch.ones(n), "x_mask": torch.ones(2)} for n in (2, 3)]
    with pytest.raises(ConfigError, match="x_mask"):
        collate_webdataset(samples, ragged="pad")


@pytest.mark.parametrize("transform", [None, dict])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_nested_columns_of_one_family_can_be_combined(tmp_path, transform, num_workers):
    samples = (
        {"a": np.full((i % 3 + 1, 2), i, np.float32), "b": np.ones((i % 3 + 1, 2), np.float32)} for i in range(8)
    )
    loader = create_webdataset_dataloader(
        written(tmp_path, samples), 8, num_workers, False, ragged="nested", transform=transform, worker_type="process"
    )
    batch = next(iter(loader))
    together = batch["a"] + batch["b"]
    assert [part.flatten()[0].item() for part in together.unbind()] == [i + 1 for i in range(8)]


@pytest.mark.parametrize("dump", [orjson.dumps, json.dumps])
def test_encoders_write_the_metadata_or_refuse(tmp_path, dump):
    folder = written(tmp_path, map(ragged, range(4)))
    metadata = next(iter(create_webdataset_dataloader(folder, 4, 0, False)))["metadata"]
    try:
        text = dump(metadata)
    except TypeError:
        text = dump(list(metadata))
    assert [each["row"] for each in json.loads(text)] == [0, 1, 2, 3]
    assert json.loads(dump(metadata)) == json.loads(text)


def some_lack(i):
    sample = {"x": np.full(2, i, np.float32)}
    if i % 4 == 1:
        sample |= {"lfp": np.full(3, i, np.float32), "n": i, "odd": np.full((i % 3 + 1, 2), i), "note": f"n{i}"}
    return sample


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5])
@pytest.mark.parametrize("workers", [(0, "thread"), (2, "process")])
def test_a_field_that_some_samples_lack_is_the_same_kind_of_column_in_every_batch(tmp_path, batch_size, workers):
    folder = written(tmp_path, map(some_lack, range(20)))
    count, kind = workers
    for batch in create_webdataset_dataloader(folder, batch_size, count, False, worker_type=kind):
        rows = [each["row"] for each in batch["metadata"]]
        there = [row % 4 == 1 for row in rows]
        assert batch["lfp"].shape == (len(rows), 3)
        assert batch["lfp"].dtype == torch.float32
        assert batch["lfp_valid"].tolist() == there
        assert batch["lfp"][:, 0].tolist() == [row if here else 0 for row, here in zip(rows, there, strict=True)]
        assert batch["note"] == [f"n{row}" if here else None for row, here in zip(rows, there, strict=True)]
        assert isinstance(batch["odd"], list)
        assert [value is not None for value in batch["odd"]] == there
        assert batch["n"].tolist() == [row if here else 0 for row, here in zip(rows, there, strict=True)]
        assert batch["n_valid"].tolist() == there


def test_a_sample_that_lacks_a_field_does_not_have_it(tmp_path):
    folder = written(tmp_path, map(some_lack, range(12)))
    for made in (ShardDataset(folder), WebDatasetLoader(folder, shuffle=False), WebDatasetLoader(folder, decode=False)):
        for sample in made:
            row = (
                sample["metadata"]["row"]
                if isinstance(sample["metadata"], dict)
                else json.loads(sample["metadata"])["row"]
            )
            assert ("lfp" in sample) == ("note" in sample) == ("odd" in sample) == (row % 4 == 1)


def test_a_stored_null_is_none_and_there(tmp_path):
    folder = written(tmp_path, ({"x": np.zeros(2), "j": None if i % 2 else {"a": i}} for i in range(4)))
    assert [sample["j"] for sample in ShardDataset(folder)] == [{"a": 0}, None, {"a": 2}, None]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.5, 300])
def test_a_pad_value_that_integers_cannot_hold_is_refused_by_name(tmp_path, value):
    samples = ({"x": np.full(i % 3 + 1, i, np.uint8)} for i in range(6))
    loader = create_webdataset_dataloader(written(tmp_path, samples), 6, 0, ragged="pad", pad_value=value)
    with pytest.raises(ConfigError, match=r"pad_value=.*'x'"):
        list(loader)


def test_prefetch_factor_none_is_torchs_default(tmp_path):
    folder = written(tmp_path, map(ragged, range(10)))
    for workers in (0, 2):
        assert len(list(create_webdataset_dataloader(folder, 4, workers, prefetch_factor=None))) == 3


@pytest.mark.parametrize("options", [{"batch_size": None}, {"seed": None}, {"batch_size": 2.0}, {"buffer_size": None}])
def test_what_has_no_meaning_is_refused_by_name(tmp_path, options):
    folder = written(tmp_path, map(ragged, range(10)))
    with pytest.raises(ConfigError, match=next(iter(options))):
        create_webdataset_dataloader(folder, **{"num_workers": 0, **options})


def test_floats_may_become_single_precision(tmp_path):
    samples = ({"x": np.full(3, i, np.float64), "n": np.array([i]), "r": np.zeros((i % 2 + 1, 2))} for i in range(6))
    folder = written(tmp_path, samples)
    for workers in (0, 2):
        batch = next(iter(create_webdataset_dataloader(folder, 6, workers, False, floats="float32")))
        assert batch["x"].dtype == torch.float32
        assert batch["x"][:, 0].tolist() == list(range(6))
        assert {value.dtype for value in batch["r"]} == {torch.float32}
        assert batch["n"].dtype == torch.int64
    assert next(iter(create_webdataset_dataloader(folder, 6, 0)))["x"].dtype == torch.float64
    assert ShardDataset(folder, floats="float32")[0]["x"].dtype == torch.float32
    assert next(iter(WebDatasetLoader(folder, floats="float32")))["x"].dtype == torch.float32
    with pytest.raises(ConfigError, match="floats"):
        create_webdataset_dataloader(folder, floats="half")
