"""Batches on their way to the device: pinned, copied on a stream of their own, a few ahead of the training loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")

#: Batches that are being copied, or wait on the device, while the training loop works on another.
AHEAD = 2


def has_accelerator() -> bool:
    """Return whether pinned memory is of any use here."""
    found = getattr(torch, "accelerator", None)
    return bool(torch.cuda.is_available() if found is None else found.is_available())


def map_tensors(change: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Rebuild nested dicts, lists and tuples with their tensors changed; everything else stays what it is."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) is dict:
        return {key: map_tensors(change, item) for key, item in value.items()}
    if type(value) is list:  # not a subclass: metadata that was not decoded yet stays so
        return [map_tensors(change, item) for item in value]
    if isinstance(value, tuple):
        items = [map_tensors(change, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def pinned(batch: Any) -> Any:
    """Return the batch in page-locked memory."""
    return map_tensors(lambda tensor: tensor if tensor.is_pinned() else tensor.pin_memory(), batch)


class DeviceCopier:
    """Copies batches to a device that has streams; the copy runs beside the training loop's kernels.

    Parameters
    ----------
    device : torch.device
        Where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams = torch.get_device_module(device)
        self._stream = self._streams.Stream(device)

    def start(self, batch: Any) -> tuple[Any, Any, Any]:
        """Start the copy; return the batch on the device, the event of its completion, and what to keep till then."""
        source = pinned(batch)
        with self._streams.stream(self._stream):
            moved = map_tensors(lambda tensor: tensor.to(self._device, non_blocking=True), source)
            return moved, self._stream.record_event(), source

    def finish(self, started: tuple[Any, Any, Any]) -> Any:
        """Make the caller's stream wait for the copy, and return the batch."""
        moved, event, _ = started
        current = self._streams.current_stream(self._device)
        current.wait_event(event)
        map_tensors(lambda tensor: _record(tensor, current), moved)
        event.synchronize()  # the pinned source may be used again from here on
        return moved


class PlainCopier:
    """Copies batches where there are no streams (``cpu``)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self, batch: Any) -> Any:
        """Copy."""
        return map_tensors(lambda tensor: tensor.to(self._device), batch)

    def finish(self, started: Any) -> Any:
        """Return the batch."""
        return started


def copier(device: torch.device) -> DeviceCopier | PlainCopier:
    """Return what copies to this device."""
    return PlainCopier(device) if device.type == "cpu" else DeviceCopier(device)


def prefetch(
    batches: Iterator[tuple[Any, T]], copies: DeviceCopier | PlainCopier, ahead: int = AHEAD
) -> Iterator[tuple[Any, T]]:
    """Yield batches on the device, in order, each with the tag it came with; ``ahead`` copies are under way."""
    started: deque[tuple[Any, T]] = deque()
    for batch, tag in batches:
        started.append((copies.start(batch), tag))
        if len(started) > ahead:
            yield _finished(copies, *started.popleft())
    while started:
        yield _finished(copies, *started.popleft())


def _finished(copies: DeviceCopier | PlainCopier, started: Any, tag: T) -> tuple[Any, T]:
    return copies.finish(started), tag


def _record(tensor: torch.Tensor, stream: Any) -> torch.Tensor:
    """Tell the allocator that another stream uses this memory."""
    tensor.record_stream(stream)
    return tensor
