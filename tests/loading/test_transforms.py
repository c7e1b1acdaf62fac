"""User code (transforms, plugins) can fail, but never end an epoch in silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurofm_shards import ShardDataset, WebDatasetLoader, WebDatasetWriter, create_webdataset_dataloader
from neurofm_shards.errors import TransformError
from neurofm_shards.plugins.interfaces import Transform

WORKERS = [(0, "thread"), (2, "thread"), (2, "process")]


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hundred")
    with WebDatasetWriter(folder, shard_size=16) as writer:
        for i in range(100):
            sample = {"x": np.full(3, i, np.float32)}
            writer.write_sample(sample, sample_id=f"k{i:03d}", metadata={"row": i})
    return folder


def no_match_at_80(sample):
    if sample["metadata"]["row"] == 80:
        next(iter(()))
    return sample


def no_match_in_batch(batch):
    if any(each["row"] == 80 for each in batch["metadata"]):
        next(iter(()))
    return batch


class NoMatch(Transform):
    """Ends an iteration that it does not own."""

    def __call__(self, sample, metadata):
        if metadata["row"] == 80:
            next(iter(()))
        return sample


def loader_of(folder, workers, **options):
    count, kind = workers
    return create_webdataset_dataloader(folder, 8, count, False, worker_type=kind, **options)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_transform_that_finds_no_match_is_an_error_that_names_the_sample(hundred, workers):
    loader = loader_of(hundred, workers, transform=no_match_at_80)
    found = []
    with pytest.raises(TransformError, match=r"transform=no_match_at_80 raised StopIteration.*k080"):
        found.extend(iter(loader))
    assert len(found) == 10


@pytest.mark.parametrize("workers", WORKERS)
def test_a_batch_transform_that_finds_no_match_is_an_error_that_names_its_samples(hundred, workers):
    loader = loader_of(hundred, workers, batch_transform=no_match_in_batch)
    with pytest.raises(TransformError, match=r"batch_transform=no_match_in_batch raised StopIteration.*k080.*k087"):
        list(loader)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_plugins_transform_that_finds_no_match_is_an_error(hundred, workers):
    loader = loader_of(hundred, workers, transforms=[NoMatch()])
    with pytest.raises(TransformError, match="NoMatch raised StopIteration"):
        list(loader)


def test_single_samples_name_theirs_too(hundred):
    with pytest.raises(TransformError, match="k080"):
        list(WebDatasetLoader(hundred, shuffle=False, transform=no_match_at_80))
    with pytest.raises(TransformError, match="k080"):
        ShardDataset(hundred, transform=no_match_at_80)[80]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(("result", "says"), [(None, "None"), (3, "int"), ("text", "str")])
def test_a_transform_must_return_a_sample(hundred, workers, result, says):
    loader = loader_of(hundred, workers, transform=lambda _: result)
    with pytest.raises(TransformError, match=rf"returned {says} for .*k000"):
        list(loader)


@pytest.mark.parametrize("make", [WebDatasetLoader, ShardDataset])
def test_none_is_no_sample(hundred, make):
    with pytest.raises(TransformError, match=r"returned None .*k\d\d\d"):
        next(iter(make(hundred, transform=lambda _: None)))


@pytest.mark.parametrize("workers", WORKERS)
def test_a_batch_transform_must_return_something(hundred, workers):
    with pytest.raises(TransformError, match=r"batch_transform=.*returned None"):
        list(loader_of(hundred, workers, batch_transform=lambda _: None))


def test_single_samples_may_become_pairs(hundred):
    first = next(iter(WebDatasetLoader(hundred, shuffle=False, transform=lambda sample: (sample["x"], 1))))
    assert isinstance(first, tuple)
    pairs = loader_of(hundred, (0, "thread"), batch_transform=lambda batch: (batch["x"], 1))
    assert isinstance(next(iter(pairs))[0], torch.Tensor)


@pytest.mark.parametrize("workers", WORKERS)
def test_other_errors_keep_their_type(hundred, workers):
    def fails(sample):
        raise LookupError(f"no session {sample['metadata']['row']}")

    with pytest.raises(LookupError, match="no session 0"):
        list(loader_of(hundred, workers, transform=fails))
