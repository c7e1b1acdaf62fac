"""Samples come unchanged whoever copies them, and threads leave torch's own settings alone."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader
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


@pytest.mark.parametrize(
    ("length", "settings", "threads"),
    [
        (256, {}, 0),
        (256, {"num_workers": 2}, 2),
        (256, {"batch_transform": dict}, 1),
        (256, {"batch_size": 600}, 1),
        (5000, {}, 1),
    ],
)
def test_small_batches_that_are_only_copied_are_not_handed_to_one_thread(tmp_path, length, settings, threads):
    data = np.arange(1200 * length, dtype=np.float32).reshape(1200, length)
    create_shards_from_arrays(tmp_path, {"x": data}, shard_size=700)
    settings = {"batch_size": 32, "num_workers": 1, **settings}
    loader, plain = (
        create_webdataset_dataloader(tmp_path, seed=3, **{**settings, **other}) for other in ({}, {"num_workers": 0})
    )
    batches = iter(loader)
    first = next(batches)
    assert sum(thread.name.startswith("neurofm-shards") for thread in threading.enumerate()) == threads
    assert loader.num_workers == settings["num_workers"]
    wanted = [batch["x"] for batch in plain]
    assert torch.equal(torch.cat([first["x"], *(batch["x"] for batch in batches)]), torch.cat(wanted))


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
