"""Samples come unchanged whoever copies them, and threads leave torch's own settings alone."""

import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader
from neurofm_shards.loading.workers import select
from neurofm_shards.loading.workers.select import SMALL_BYTES  # taken before the tests of loading set it to nothing
from neurofm_shards.loading.workers.threads import ThreadWorkers
from neurofm_shards.reading import row_copy


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("length", [3, 60, 700])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_samples_come_unchanged_and_torch_keeps_its_threads(tmp_path, monkeypatch, num_workers, length, compiled):
    if compiled and not row_copy.COMPILED:
        pytest.skip("this package was built without a compiler")
    monkeypatch.setattr(row_copy, "COMPILED", compiled)
    data = np.random.default_rng(0).standard_normal((40, 50, length))
    create_shards_from_arrays(tmp_path, {"x": data}, shard_size=7)
    before = torch.get_num_threads()
    loader = create_webdataset_dataloader(tmp_path, 6, num_workers, shuffle=False)
    batches = list(loader)  # all are kept: none may be written again
    assert np.array_equal(torch.cat([batch["x"] for batch in batches]).numpy(), data)
    assert torch.get_num_threads() == before


@pytest.fixture
def small(tmp_path):
    create_shards_from_arrays(tmp_path / "small", {"x": np.arange(1200 * 256.0).reshape(1200, 256)}, shard_size=700)
    return tmp_path / "small"


def used():
    """Return how many workers there are."""
    threads = sum(thread.name.startswith("neurofm-shards_") for thread in threading.enumerate())
    return threads + len(multiprocessing.active_children())


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        *(({"num_workers": n, "persistent_workers": stay}, 0) for n in (1, 2, 7) for stay in (False, True)),
        ({"batch_size": 256}, 0),
        ({"batch_size": 257}, 2),
        ({"batch_size": 257, "columns": []}, 0),
        ({"worker_type": "process"}, 0),
        ({"worker_type": "process", "batch_size": 257}, 2),
        ({"batch_transform": dict}, 2),
        ({"worker_type": "process", "batch_transform": dict}, 2),
    ],
)
def test_small_batches_that_are_only_copied_are_not_handed_to_workers(small, monkeypatch, settings, count):
    monkeypatch.setattr(select, "SMALL_BYTES", SMALL_BYTES)
    monkeypatch.setattr(select, "SLOW_SECONDS", 1e6)
    settings = {"batch_size": 32, "num_workers": 2, "seed": 3, **settings}
    loader = create_webdataset_dataloader(small, **settings)
    plain = create_webdataset_dataloader(small, **{**settings, "num_workers": 0})
    for _ in range(2):
        batches, expected = iter(loader), list(plain)
        first = next(batches)
        assert used() == count
        found = [first, *batches]
        assert [batch.keys() for batch in found] == [batch.keys() for batch in expected]
        for one, other in zip(found, expected, strict=True):
            assert one["metadata"] == other["metadata"]
            assert all(torch.equal(one[name], other[name]) for name in one.keys() - {"metadata"})
    assert loader.num_workers == settings["num_workers"]
    loader.close()


@pytest.mark.parametrize("settings", [{"compression": "gz"}, {}])
def test_compressed_and_ragged_samples(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(select, "SMALL_BYTES", SMALL_BYTES)
    monkeypatch.setattr(select, "SLOW_SECONDS", 1e6)
    data = {"x": [np.ones(1 + i % 3) for i in range(60)]}
    create_shards_from_arrays(tmp_path, data, shard_size=20, **settings)
    batches = iter(create_webdataset_dataloader(tmp_path, 8, 2))
    next(batches)
    assert used() == (2 if settings else 0)


def test_small_batches_that_come_slowly_are_handed_to_threads_in_the_middle_of_an_epoch(small, monkeypatch):
    monkeypatch.setattr(select, "SMALL_BYTES", SMALL_BYTES)
    monkeypatch.setattr(select, "SLOW_SECONDS", 0)
    loader = create_webdataset_dataloader(small, 8, 2, seed=3, persistent_workers=True)
    plain = create_webdataset_dataloader(small, 8, 0, seed=3)
    for _ in range(2):
        batches, expected, counts = iter(loader), list(plain), []
        for i, batch in enumerate(batches):
            counts.append(used())
            assert torch.equal(batch["x"], expected[i]["x"])
            assert loader.state_dict()["position"] == min(8 * (i + 1), 1200) % 1200
        assert len(counts) == len(expected)
        assert counts[-1] == 2
    assert counts[0] == 2, "they stay for the next epoch"
    loader.close()
    assert used() == 0


def test_threads_that_started_do_not_wait_for_one_that_cannot(monkeypatch):
    start, before = threading.Thread.start, threading.active_count()

    def all_but_the_third(self):
        if threading.active_count() >= before + 2:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", all_but_the_third)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        ThreadWorkers(lambda request: request, 4, 2)
    for thread in threading.enumerate():
        if thread.name.startswith("neurofm-shards"):
            thread.join(300)
            assert not thread.is_alive()


IMPORTS = """
import importlib.abc, sys, threading
from neurofm_shards import create_webdataset_dataloader

class Spy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if threading.current_thread() is not threading.main_thread():
            print(name)

for settings in ({}, {"ragged": "pad"}, {"ragged": "packed"}, {"ragged": "nested"}, {"shuffle": "global"}):
    loader = create_webdataset_dataloader(sys.argv[1], 8, 2, verify=True, on_error="skip", **settings)
    sys.meta_path.insert(0, spy := Spy())
    for batch in loader:
        batch["metadata"][0]
    sys.meta_path.remove(spy)
"""


def test_threads_import_nothing_beside_which_foreign_code_may_fork(tmp_path):
    data = {"x": [np.ones((1 + i % 3, 2)) for i in range(60)], "n": np.arange(60)}
    create_shards_from_arrays(tmp_path / "d", data, shard_size=20, compression="gz")
    command = [sys.executable, "-c", IMPORTS, str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == ""
