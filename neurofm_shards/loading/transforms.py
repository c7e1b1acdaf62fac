"""What a loader does to samples and batches after reading them, and whether that holds the GIL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing import current_process
from typing import Any, Literal, TypeAlias, TypeGuard, TypeVar, cast, get_args

from pydantic import BaseModel

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, TransformError
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.plugins.registry import registry
from neurofm_shards.reading.samples import SampleCollection
from neurofm_shards.types import Block

T = TypeVar("T")

WorkerType: TypeAlias = Literal["auto", "thread", "process"]
#: A transform, its name in the registry, its configuration, or several of these.
TransformLike: TypeAlias = "Transform | str | Mapping[str, Any] | BaseModel"
SampleFunction: TypeAlias = Callable[[dict[str, Any]], Any]
BatchFunction: TypeAlias = Callable[[dict[str, Any]], Any]


def make_transforms(described: TransformLike | Sequence[TransformLike] | None) -> tuple[Transform, ...]:
    """Make transforms from names, configurations and instances.

    Raises
    ------
    ConfigError
        Something is none of these, or a configuration is wrong.
    """
    return tuple(_make(item) for item in as_list(described))


def as_list(described: TransformLike | Sequence[TransformLike] | None) -> list[TransformLike]:
    """Return none, one or several as a list."""
    if described is None:
        return []
    return [described] if is_transform(described) else list(cast("Sequence[TransformLike]", described))


def is_transform(described: object) -> TypeGuard[TransformLike]:
    """Return whether this is one transform, or describes one."""
    return isinstance(described, (Transform, str, Mapping, BaseModel))


def _make(described: TransformLike) -> Transform:
    if isinstance(described, Transform):
        return described
    if not isinstance(described, (str, Mapping, BaseModel)):
        raise ConfigError(
            f"{described!r} is no transform: give instances, names or configurations; a function of one sample "
            "goes to transform=, one of a whole batch to batch_transform="
        )
    made: Transform = registry().transforms.make(described)
    return made


def bind(
    transforms: Sequence[Transform], collection: SampleCollection, columns: Sequence[str] | None
) -> tuple[Transform, ...]:
    """Give each transform the data set's manifest, with the statistics of the columns that are delivered."""
    if all(type(transform).bind is Transform.bind for transform in transforms):
        return tuple(transforms)  # none asks, so statistics that are not there yet need not be made
    content = {} if collection.manifest is None else collection.manifest.model_dump(mode="json")
    content["statistics"] = collection.statistics(columns)
    return tuple(transform.bind(content) for transform in transforms)


#: Describes the sample at a place of a batch, for messages.
Describe: TypeAlias = Callable[[int], str]


def call(function: Callable[..., T], name: str, value: object, where: Callable[[], str]) -> T:
    """Call a user's function: it may fail, but neither end the iteration nor return None.

    Parameters
    ----------
    function : callable
        A transform.
    name : str
        What it is called in messages (``"transform=crop"``).
    value : object
        Given to it.
    where : callable
        Names the samples, once that is needed.

    Raises
    ------
    TransformError
        It raised StopIteration, or returned None.
    """
    try:
        result = function(value)
    except StopIteration as error:
        raise TransformError(
            f"{name} raised StopIteration for {where()}: a next() that found nothing, probably, which would end the "
            "epoch here. Give it a default, next(..., None), or raise another error"
        ) from error
    if result is None:
        raise TransformError(
            f"{name} returned None for {where()}: return what is to be used instead; to leave samples out, use where="
        )
    return result


def name_of(function: object) -> str:
    """Return the name of a function or object for messages."""
    return getattr(function, "__name__", type(function).__name__)


def transformed(function: SampleFunction, samples: Iterable[dict[str, Any]], describe: Describe) -> list[Any]:
    """Return the samples after ``transform=``."""
    name = f"transform={name_of(function)}"
    return [call(function, name, sample, partial(describe, i)) for i, sample in enumerate(samples)]


def apply(transforms: Sequence[Transform], block: Block, describe: Describe) -> Block:
    """Run a block through transforms.

    Raises
    ------
    ConfigError
        One of them dropped samples: at load, that would change how many samples an epoch has.
    TransformError
        See :func:`call`.
    """
    for transform in transforms:
        where = partial(between, describe, len(block))
        changed = call(transform.apply_block, name_of(transform), block, where)
        if len(changed) != len(block):
            raise ConfigError(
                f"the transform {type(transform).__name__} dropped {len(block) - len(changed)} of {len(block)} "
                "samples, which cannot be while loading: choose samples with where=, or drop them when converting"
            )
        block = changed
    return block


def between(describe: Describe, count: int) -> str:
    """Describe the samples of a batch."""
    return describe(0) if count == 1 else f"the {counted(count, 'sample')} from {describe(0)} to {describe(count - 1)}"


def choose_workers(
    wanted: WorkerType,
    transforms: Sequence[Transform],
    transform: SampleFunction | None,
    batch_transform: BatchFunction | None,
) -> Literal["thread", "process"]:
    """Choose threads, unless something is known or likely to hold the GIL.

    A function of one sample is taken to be Python code that does; one of a whole batch, to be calls of numpy and torch
    that do not. Either can say otherwise with an attribute ``holds_gil``.
    """
    if wanted not in get_args(WorkerType):
        raise ConfigError(f"worker_type={wanted!r}; choose 'auto', 'thread' or 'process'")
    if wanted == "process" and current_process().daemon:
        raise ConfigError(
            'worker_type="process": this process is a daemon (of a pool, or of a DataLoader), which may not start '
            'others; use worker_type="thread" or "auto"'
        )
    if wanted != "auto":
        return wanted
    held = any(item.holds_gil for item in transforms)
    held = held or (transform is not None and getattr(transform, "holds_gil", True))
    held = held or (batch_transform is not None and getattr(batch_transform, "holds_gil", False))
    return "process" if held and not current_process().daemon else "thread"  # daemons may not have children
