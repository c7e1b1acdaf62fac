"""Batches on their way to the device: in page-locked memory, copied on a stream of their own, ahead of the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch

from neurofm_shards._typing import Bytes

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


def page_locked(size: int) -> Bytes:
    """Return so many bytes of page-locked memory, from which a device copies on its own."""
    found: Bytes = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True).numpy()
    return found


def pin(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in page-locked memory: itself where it lies there, as what was gathered there does."""
    return tensor if tensor.is_pinned() else tensor.pin_memory()


def pinned(batch: Any) -> Any:
    """Return the batch in page-locked memory."""
    return map_tensors(pin, batch)


class Event(Protocol):
    """A point in a stream."""

    def query(self) -> bool:
        """Return whether the stream has passed it."""

    def synchronize(self) -> None:
        """Wait until it has."""


class Transfers(Protocol):
    """What copying needs of a device."""

    def copying(self) -> AbstractContextManager[Any]:
        """Let what is done inside go to the stream of copies."""

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Start to copy a tensor out of page-locked memory; return it on the device."""

    def mark(self) -> Event:
        """Return an event behind what was started."""

    def receive(self, batch: Any, event: Event) -> None:
        """Let the caller's stream wait for an event, and own the memory of a batch."""


class DeviceTransfers:
    """The transfers of a device that has streams.

    Parameters
    ----------
    device : torch.device
        Which.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams = torch.get_device_module(device)
        self._stream = self._streams.Stream(device)

    def copying(self) -> AbstractContextManager[Any]:
        """See :meth:`Transfers.copying`."""
        found: AbstractContextManager[Any] = self._streams.stream(self._stream)
        return found

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """See :meth:`Transfers.copy`."""
        return tensor.to(self._device, non_blocking=True)

    def mark(self) -> Event:
        """See :meth:`Transfers.mark`."""
        event: Event = self._stream.record_event()
        return event

    def receive(self, batch: Any, event: Event) -> None:
        """See :meth:`Transfers.receive`."""
        current = self._streams.current_stream(self._device)
        current.wait_event(event)
        map_tensors(lambda tensor: _record(tensor, current), batch)


class DeviceCopier:
    """Copies batches to a device that has streams; the copy runs beside the training loop's kernels.

    Nobody waits for a copy: the caller's stream does, and the page-locked source is held until its event has passed,
    when its memory goes back to the pool that it was gathered into.

    Parameters
    ----------
    transfers : Transfers
        The device's.
    """

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._held: deque[tuple[Event, Any]] = deque()

    def start(self, batch: Any) -> tuple[Any, Event]:
        """Start the copy; return the batch on the device, and the event of its completion."""
        self._let_go()
        source = pinned(batch)
        with self._transfers.copying():
            moved = map_tensors(self._transfers.copy, source)
            event = self._transfers.mark()
        self._held.append((event, source))
        return moved, event

    def finish(self, started: tuple[Any, Event]) -> Any:
        """Make the caller's stream wait for the copy, and return the batch."""
        moved, event = started
        self._transfers.receive(moved, event)
        return moved

    def _let_go(self) -> None:
        """Give up sources whose copies are done; wait for one where too many are not."""
        if len(self._held) > 2 * AHEAD:
            self._held[0][0].synchronize()
        while self._held and self._held[0][0].query():
            self._held.popleft()


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
    """Return the copier to this device."""
    return PlainCopier(device) if device.type == "cpu" else DeviceCopier(DeviceTransfers(device))


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
