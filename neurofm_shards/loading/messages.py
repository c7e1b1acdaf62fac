"""What a loading process and its parent say to each other: small messages; batches travel in shared memory."""

from __future__ import annotations

from dataclasses import dataclass

from neurofm_shards.loading.plans.plan import Request


@dataclass(frozen=True)
class Order:
    """Parent to worker: fetch these batches.

    Attributes
    ----------
    number : int
        Counts all tasks of a pool.
    task : list of Request
        What to fetch.
    released : tuple of int
        Slots of this worker that may be written to again.
    seed : int
        What random numbers start from, together with each batch's position.
    """

    number: int
    task: list[Request]
    released: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Delivery:
    """Worker to parent: the outcomes of a task lie in a slot.

    Attributes
    ----------
    number : int
        The order's number.
    slot : int
        Which slot of this worker.
    skeleton : (int, int)
        Where in the slot; see :func:`neurofm_shards.loading.workers.shared.unpack`.
    new_size : int
        Size of the slot where it is a new one, whose descriptor follows this message; else 0.
    dropped : tuple of int
        Slots that the worker gave up.
    """

    number: int
    slot: int
    skeleton: tuple[int, int]
    new_size: int
    dropped: tuple[int, ...]
