"""Batches on their way to a device: in order, whole, and with nothing but tensors touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from neurofm_shards import create_webdataset_dataloader
from neurofm_shards.loading.device import copier, has_accelerator, map_tensors, pinned, prefetch
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
    device = torch.accelerator.current_accelerator()
    plain = create_webdataset_dataloader(written[0], 10, 0)
    moved = create_webdataset_dataloader(written[0], 10, 2, device=device, worker_type=kind)
    for one, other in zip(plain, moved, strict=True):
        assert other["x"].device.type == device.type
        assert torch.equal(one["x"], other["x"].cpu())


@pytest.mark.skipif(not has_accelerator(), reason="no accelerator on this machine")
def test_batches_come_in_page_locked_memory(written):
    for batch in create_webdataset_dataloader(written[0], 10, 2, pin_memory=True):
        assert batch["x"].is_pinned()
    assert pinned({"x": torch.ones(2)})["x"].is_pinned()


@pytest.mark.skipif(not has_accelerator(), reason="no accelerator on this machine")
def test_a_copy_is_whole_although_its_source_is_freed_at_once():
    device = torch.accelerator.current_accelerator()
    batches = ((torch.full((1 << 22,), float(i)), i) for i in range(20))
    for batch, number in prefetch(batches, copier(device)):
        assert (batch == number).all()


def test_the_measurement_of_a_device_says_when_there_is_none():
    if has_accelerator():
        pytest.skip("there is a device")
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "feed_device.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "no device"
