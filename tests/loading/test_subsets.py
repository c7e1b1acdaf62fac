"""Subsets: rows by metadata, key and named split, without touching the data."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from neurofm_shards import create_webdataset_dataloader
from neurofm_shards.errors import ConfigError, SampleNotFoundError
from neurofm_shards.format.metadata_table import MetadataTable
from neurofm_shards.loading.subsets import select


class Described:
    """What select asks of a ShardCollection: the metadata table and the keys."""

    num_samples = 12
    catalog = SimpleNamespace(folder="a folder without saved splits")
    manifest = None
    metadata = tuple(
        {
            "subject": f"M{i % 3}",
            "rate": i / 2,
            "split": "train" if i < 8 else "test",
            "choice": None if i % 4 else "left",
        }
        for i in range(12)
    )

    def metadata_table(self):
        return MetadataTable.concat([MetadataTable.of(self.metadata[:5]), MetadataTable.of(self.metadata[5:])])

    def find(self, key):
        if not key.startswith("sample_"):
            raise SampleNotFoundError(key)
        return int(key[7:])


@pytest.fixture
def collection():
    return Described()


def test_no_condition_is_no_subset(collection):
    assert select(collection) is None


def test_an_expression_chooses_rows(collection):
    assert select(collection, where='subject == "M1" and rate > 1').tolist() == [4, 7, 10]
    assert select(collection, where='choice != "left"').tolist() == []
    assert select(collection, where="choice is None and rate < 2").tolist() == [1, 2, 3]


def test_a_function_of_columns_chooses_rows(collection):
    assert select(collection, where=lambda columns: columns["rate"] >= 5).tolist() == [10, 11]


def test_keys_choose_rows_in_storage_order(collection):
    keys = ["sample_9", "sample_2", "sample_2"]
    assert select(collection, keys=keys).tolist() == [2, 9]
    assert select(collection, keys=keys, where="rate > 2").tolist() == [9]
    with pytest.raises(SampleNotFoundError):
        select(collection, keys=["nobody"])


def test_a_named_split_chooses_rows(collection):
    assert select(collection, split="test").tolist() == [8, 9, 10, 11]
    with pytest.raises(ConfigError, match="no split 'val'; the samples have: test, train"):
        select(collection, split="val")


@pytest.mark.parametrize("mask", [np.arange(12), np.ones(3, bool), True])
def test_a_function_must_return_a_mask(collection, mask):
    with pytest.raises(ConfigError, match=r"a boolean array of shape \(12,\) was expected"):
        select(collection, where=lambda _: mask)


def test_an_unknown_column_lists_those_there_are(collection):
    with pytest.raises(ConfigError, match="no column 'subjekt' .did you mean 'subject'.*choice, rate"):
        select(collection, where='subjekt == "M1"')


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ('subject == "M9"', r"there are: subject 'M0', 'M1', 'M2'$"),
        ("row > 500", r"there are: row 0 to 102$"),
        ('subject == "M1" and between(row, 200, 300)', r"there are: row 0 to 102; subject 'M0', 'M1', 'M2'$"),
    ],
)
def test_a_selection_of_nothing_lists_what_there_is(written, where, says):
    with pytest.raises(ConfigError, match=says):
        create_webdataset_dataloader(written[0], where=where)
