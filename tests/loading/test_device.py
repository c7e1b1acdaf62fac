"""Batches on their way to a device: in order, whole, and with nothing but tensors touched."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader
from neurofm_shards.loading import dataloader, device
from neurofm_shards.loading.device import AHEAD, copier, has_accelerator, map_tensors, pinned, prefetch
from neurofm_shards.loading.fetch import LazyMetadata


class Pair(NamedTuple):
    left: torch.Tensor
    right: int


def never(rows):
    raise AssertionError("metadata was decoded")


def test_map_tensors_rebuilds_what_holds_tensors_and_leaves_the_rest_alone():
    lazy = LazyMetadata.later(never, range(3))
    value = {"a": torch.ones(2), "b": [torch.ones(1), "text"], "c": Pair(torch.ones(1), 4), "metadata": lazy}
    found = map_tensors(lambda tensor: tensor + 1, value)
    assert found["a"].tolist() == [2, 2]
    assert found["b"][0].tolist() == [2]
    assert found["b"][1] == "text"
    assert found["c"] == Pair(torch.tensor([2.0]), 4)
    assert found["metadata"] is lazy


def test_copies_run_ahead_and_batches_keep_their_order_and_tag():
    started = []

    class Slow:
        def start(self, batch):
            started.append(batch)
            return batch

        def finish(self, batch):
            return batch * 10

    for number, (batch, tag) in enumerate(prefetch(((i, f"tag {i}") for i in range(7)), Slow(), ahead=2)):
        assert (batch, tag) == (number * 10, f"tag {number}")
        assert len(started) == min(number + 3, 7)


def test_to_the_cpu_is_a_device_like_any_other(written):
    plain = create_webdataset_dataloader(written[0], 10, 0)
    moved = create_webdataset_dataloader(written[0], 10, 2, device="cpu")
    for one, other in zip(plain, moved, strict=True):
        assert torch.equal(one["x"], other["x"])
        assert one["metadata"] == other["metadata"]


@pytest.mark.skipif(not has_accelerator(), reason="no accelerator on this machine")
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_batches_arrive_on_the_device_whole(written, kind):
    found = torch.accelerator.current_accelerator()
    plain = create_webdataset_dataloader(written[0], 10, 0)
    moved = create_webdataset_dataloader(written[0], 10, 2, device=found, worker_type=kind)
    for one, other in zip(plain, moved, strict=True):
        assert other["x"].device.type == found.type
        assert torch.equal(one["x"], other["x"].cpu())


@pytest.mark.skipif(not has_accelerator(), reason="no accelerator on this machine")
def test_batches_come_in_page_locked_memory(written):
    for batch in create_webdataset_dataloader(written[0], 10, 2, pin_memory=True):
        assert batch["x"].is_pinned()
    assert pinned({"x": torch.ones(2)})["x"].is_pinned()


@pytest.mark.skipif(not has_accelerator(), reason="no accelerator on this machine")
def test_a_copy_is_whole_although_its_source_is_freed_at_once():
    found = torch.accelerator.current_accelerator()
    batches = ((torch.full((1 << 22,), float(i)), i) for i in range(20))
    for batch, number in prefetch(batches, copier(found)):
        assert (batch == number).all()


def test_the_measurement_of_a_device_says_when_there_is_none():
    if has_accelerator():
        pytest.skip("there is a device")
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "feed_device.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "no device"


class FakeEvent:
    def __init__(self):
        self.passed = False

    def query(self):
        return self.passed

    def synchronize(self):
        self.passed = True


class FakeDevice:
    """A device whose copies arrive when their event is synchronized or let pass, with the content of that moment."""

    def __init__(self):
        self.events, self._under_way = [], []

    def copying(self):
        return contextlib.nullcontext()

    def copy(self, tensor):
        moved = torch.zeros_like(tensor)
        self._under_way.append((moved, tensor))
        return moved

    def mark(self):
        device, under_way = self, self._under_way
        self._under_way = []

        class Arrives(FakeEvent):
            def synchronize(self):
                if not self.passed:
                    for moved, source in under_way:
                        moved.copy_(source)
                    under_way.clear()  # nobody holds the sources for the device
                    self.passed = True

        device.events.append(Arrives())
        return device.events[-1]

    def receive(self, batch, event):
        pass  # the caller's stream would wait: what the test looks at it synchronizes


@pytest.fixture
def locked(monkeypatch):
    """Pretend that there is a device with page-locked memory; give where that memory lies, and a test for tensors."""
    arrays = []  # not the arrays themselves: the pool takes those for idle that nobody else holds

    def page_locked(size):
        memory = np.zeros(size, np.uint8)
        arrays.append((memory.ctypes.data, size))
        return memory

    def lies_there(tensor):
        return any(start <= tensor.data_ptr() < start + size for start, size in arrays)

    monkeypatch.setattr(dataloader, "has_accelerator", lambda: True)
    monkeypatch.setattr(dataloader, "page_locked", page_locked)
    monkeypatch.setattr(device, "pin", lambda tensor: tensor if lies_there(tensor) else tensor.clone())
    return arrays, lies_there


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """160 samples of 8 KB, the numbers 0 to 159."""
    folder = tmp_path_factory.mktemp("large")
    x = np.repeat(np.arange(160, dtype=np.float32), 2048).reshape(160, 2048)
    create_shards_from_arrays(folder, {"x": x, "n": np.arange(160)}, shard_size=40)
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("counts", ["float32", "stored"])
def test_batches_are_gathered_into_page_locked_memory_that_is_used_again(
    large, locked, monkeypatch, num_workers, counts
):
    arrays, lies_there = locked
    transfers = FakeDevice()
    sources = []
    monkeypatch.setattr(dataloader, "copier", lambda _: device.DeviceCopier(transfers))
    original = transfers.copy
    monkeypatch.setattr(transfers, "copy", lambda tensor: (sources.append(lies_there(tensor)), original(tensor))[1])
    loader = create_webdataset_dataloader(
        large, 20, num_workers, False, device="meta", counts=counts, metadata=False, worker_type="thread"
    )
    for epoch in range(4):
        for number, batch in enumerate(loader):
            transfers.events[epoch * 8 + number].synchronize()
            assert batch["n"].tolist() == list(range(number * 20, number * 20 + 20))
            assert (batch["x"] == batch["n"][:, None]).all()
    assert sources.count(True) >= 4 * 8  # the large column; small ones are copied there
    assert 1 <= len(arrays) <= 8 + 2 * AHEAD  # and not one for each of 32 batches


def test_memory_is_not_used_again_before_its_event_has_passed(large, locked, monkeypatch):
    transfers = FakeDevice()
    monkeypatch.setattr(dataloader, "copier", lambda _: device.DeviceCopier(transfers))
    loader = create_webdataset_dataloader(large, 20, 0, False, device="meta", metadata=False)
    batches = list(loader)
    for event in transfers.events:
        event.synchronize()  # as late as can be: after all batches were gathered
    for number, batch in enumerate(batches):
        assert (batch["x"] == torch.arange(number * 20.0, number * 20 + 20)[:, None]).all()


def test_at_most_some_batches_wait_for_a_slow_device(locked):
    transfers = FakeDevice()
    copies = device.DeviceCopier(transfers)
    for _ in prefetch(((torch.ones(2), None) for _ in range(50)), copies):
        assert sum(not event.passed for event in transfers.events) <= 2 * AHEAD + 1


def test_without_a_device_of_its_own_a_loader_pins_copies(large, locked):
    """Whoever copies such batches says nobody when: their memory must not be used again by us."""
    arrays, _ = locked
    for batch in create_webdataset_dataloader(large, 20, 2, False, pin_memory=True):
        assert (batch["x"] == batch["n"][:, None]).all()
    assert not arrays


def test_single_samples_and_worker_processes_keep_away_from_page_locked_memory(large, locked, monkeypatch):
    arrays, _ = locked
    monkeypatch.setattr(dataloader, "copier", lambda _: device.PlainCopier(torch.device("cpu")))
    loader = create_webdataset_dataloader(large, 20, 1, False, device="meta", worker_type="process")
    assert (loader.dataset[3]["x"] == 3).all()
    for batch in loader:
        assert (batch["x"] == batch["n"][:, None]).all()
    assert not arrays
