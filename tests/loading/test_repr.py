"""What is printed says what it is, in a line or two."""

import re

import numpy as np
import pytest

from neurofm_shards import (
    ResumableWebDatasetLoader,
    ShardDataset,
    ShardedDatasetInfo,
    WebDatasetLoader,
    create_webdataset_dataloader,
    mix,
    split,
)
from neurofm_shards.reading.collection import ShardCollection

DATA = r"103 samples in 7 shards of /.*written\S*: x \(5, 4\) float32, y \(3,\) int64"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (ShardCollection.open, rf"ShardCollection\({DATA}\)"),
        (ShardedDatasetInfo, rf"ShardedDatasetInfo\({DATA}\)"),
        (ShardDataset, rf"ShardDataset\({DATA}\)"),
        (lambda folder: ShardDataset(folder, rows=[1, 2]), rf"ShardDataset\(2 selected from {DATA}\)"),
        (WebDatasetLoader, rf"WebDatasetLoader\(shuffle=True, seed=42, rank 0 of 1, epoch 0; {DATA}\)"),
        (
            lambda folder: ResumableWebDatasetLoader(folder, shuffle=False),
            rf"ResumableWebDatasetLoader\(shuffle=False, rank 0 of 1, epoch 0; {DATA}\)",
        ),
        (
            lambda folder: create_webdataset_dataloader(folder, 8, 0, rank=1, world_size=2),
            rf"ShardDataLoader\(7 batches of up to 8, shuffle=True, seed=42, rank 1 of 2, epoch 0; {DATA}\)",
        ),
        (lambda folder: mix([folder, folder], [1, 3]), r"Mix\(2 sources .*25 % data set 0, 75 % data set 1\)"),
    ],
)
def test_it_is_one_line_that_says_what_it_is(written, make, says):
    text = repr(make(written[0]))
    assert re.fullmatch(says, text), text
    assert "\n" not in text


def test_splits_say_how_large_they_are():
    parts = split({"session_id": np.array([f"s{i}" for i in range(100)])})
    assert repr(parts) == "Splits(train=80 (80.0%), val=10 (10.0%), test=10 (10.0%))"
