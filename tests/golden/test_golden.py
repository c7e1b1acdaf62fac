"""Bytes on disk, splits, orders, batches and states are what they were: see ``make.py`` beside this file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from golden_arrays import array_cases, with_codec
from golden_cases import DIGESTS, all_cases, differing, shared_folder, write_data_sets
from golden_conversions import conversion_cases
from golden_digests import digests_of_folder
from golden_loading import loading_cases

pytestmark = [
    pytest.mark.plugins,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not (shared_folder() / "faults").is_dir(), reason="no recordings: set NEUROFM_SHARDS_DATA"),
]
STORED = json.loads(DIGESTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_data_sets(tmp_path_factory.mktemp("data sets"))


def compare(name, found):
    names = differing(STORED[name], found)
    assert {each: found.get(each) for each in names} == {each: STORED[name].get(each) for each in names}


@pytest.mark.parametrize("name", array_cases())
def test_bytes_of_data_sets_made_from_arrays_do_not_change(name, tmp_path):
    compare(name, array_cases()[name](tmp_path))


@pytest.mark.parametrize("name", loading_cases(Path(), dict.fromkeys(("small", "other", "large"))))
def test_splits_orders_batches_and_states_do_not_change(name, tmp_path, folders):
    compare(name, loading_cases(shared_folder(), folders)[name](tmp_path))


@pytest.mark.parametrize("name", conversion_cases(shared_folder()) if (shared_folder() / "faults").is_dir() else [])
def test_bytes_of_conversions_do_not_change(name, tmp_path):
    compare(name, conversion_cases(shared_folder())[name](tmp_path))


def test_every_stored_digest_is_compared(folders):
    assert list(STORED) == list(all_cases(shared_folder(), folders))


@pytest.mark.parametrize("kind", ["shard_000001.tar", ".neurofm/shard_000002.tar.idx", "dataset_metadata.json"])
def test_a_byte_that_changes_is_noticed(kind, tmp_path):
    stored = with_codec(tmp_path)
    path = tmp_path / "out" / kind
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert len(differing(stored, digests_of_folder(tmp_path / "out"))) == 1
