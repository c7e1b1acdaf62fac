"""From a request for rows to a batch or to single samples: gather, transform, convert to tensors."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import Self

from neurofm_shards._typing import Rows
from neurofm_shards._wording import counted
from neurofm_shards.blocks import MISSING, concat_blocks, take
from neurofm_shards.errors import ConfigError, FormatError, TransformError
from neurofm_shards.format.keys import METADATA_FIELD
from neurofm_shards.loading.plans.mixing import MixPart
from neurofm_shards.loading.plans.plan import Request
from neurofm_shards.loading.tensors import NUMBERS, PLAIN, Batch, TensorOptions, batch_to_tensors, collate, to_tensor
from neurofm_shards.loading.transforms import (
    BatchFunction,
    Describe,
    SampleFunction,
    apply,
    between,
    call,
    name_of,
    transformed,
)
from neurofm_shards.loading.workers.pipeline import Fetched, LookingAhead, Step, Task
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.reading.samples import PreparedRows, SampleCollection
from neurofm_shards.types import Block, ColumnData, ColumnSpec, Metadata, Ragged
from neurofm_shards.values import sorted_unique

OnError: TypeAlias = Literal["raise", "skip"]
Failures: TypeAlias = "tuple[tuple[int, str], ...]"
Read: TypeAlias = "tuple[Mapping[str, ColumnData], Sequence[Metadata], Failures]"
#: This many unreadable samples in a row are not a damaged sample here and there.
MOST_IN_A_ROW = 100

_log = logging.getLogger("neurofm_shards.loading")


class UndecodedMetadata:
    """Stands for the metadata of a sample that nobody has looked at yet; no encoder takes it, and errors name it."""


_UNDECODED = UndecodedMetadata()


class LazyMetadata(list[Any]):
    """A list that is filled by ``decode`` when it is first used; its length is known before.

    Copying and pickling give a plain list. C code that reads lists from the inside, past their methods (orjson, json),
    finds items until then that it cannot write, and says so: hand it ``list(metadata)``. Like any list it is made of
    items, which is how code that rebuilds containers by their type (Lightning, Accelerate, torch) calls it.

    Parameters
    ----------
    items : iterable
        What it holds.
    """

    _decode: Callable[[Any], list[dict[str, Any]]] | None = None
    _rows: Sized = ()

    @classmethod
    def later(cls, decode: Callable[[Any], list[dict[str, Any]]], rows: Sized) -> Self:
        """Make a list that is filled when it is first used: by ``decode(rows)``, which returns one item per row."""
        made = cls([_UNDECODED] * len(rows))
        made._decode, made._rows = decode, rows
        return made

    @property
    def decoded(self) -> bool:
        """Whether someone has looked."""
        return self._decode is None

    def _filled(self) -> LazyMetadata:
        if self._decode is not None:
            items = self._decode(self._rows)
            if self._decode is not None:  # another thread may have been faster
                super().__setitem__(slice(None), items)
                self._decode = None
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)

    def __radd__(self, other: list[Any]) -> list[Any]:
        return other + list(self)

    def __iter__(self) -> Iterator[Any]:
        self._filled()
        return super().__iter__()


def _looking(name: str) -> Callable[..., Any]:
    """Return a list's method that fills the list first."""
    method = getattr(list, name)

    def look(self: LazyMetadata, *arguments: Any, **options: Any) -> Any:
        for other in arguments:
            if isinstance(other, LazyMetadata):
                other._filled()  # noqa: SLF001  (its own class)
        return method(self._filled(), *arguments, **options)

    look.__name__ = name
    return look


for _name in (
    *("__getitem__", "__setitem__", "__delitem__", "__contains__", "__reversed__", "__repr__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__add__", "__mul__", "__rmul__", "__iadd__"),
    *("__imul__", "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"),
):
    setattr(LazyMetadata, _name, _looking(_name))


def split_samples(columns: Mapping[str, ColumnData], metadata: Sequence[Metadata] | None) -> Iterator[dict[str, Any]]:
    """Yield each sample as a dict of its fields: arrays as tensors (views of the columns), other values as they are.

    Parameters
    ----------
    columns : mapping of str to ColumnData
        At least one, all of the same number of samples.
    metadata : sequence of dict or None
        Put under ``metadata`` of each sample; None leaves it out.
    """
    names = list(columns)
    values: list[Sequence[Any]] = [_items(columns[name]) for name in names]
    gaps = any(isinstance(data, list) and any(value is MISSING for value in data) for data in columns.values())
    if metadata is not None:
        names.append("metadata")
        values.append(metadata)
    for items in zip(*values, strict=True):
        sample = dict(zip(names, items, strict=True))
        yield {name: value for name, value in sample.items() if value is not MISSING} if gaps else sample


def _items(data: ColumnData) -> Sequence[Any]:
    if isinstance(data, np.ndarray):
        tensor = to_tensor(data)
        return tuple(tensor.unbind(0)) if isinstance(tensor, torch.Tensor) else list(tensor)
    if isinstance(data, Ragged):
        values, bounds = to_tensor(data.values), data.offsets.tolist()
        return [values[start:stop] for start, stop in pairwise(bounds)]
    return [_value(value) for value in data]


def _value(value: Any) -> Any:
    return to_tensor(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic)) else value


@dataclass(frozen=True)
class RowReader:
    """Reads rows of one data set and transforms them.

    Attributes
    ----------
    collection : ShardCollection
        The data set.
    columns : tuple of str or None
        Fields to read; None for all.
    dtypes : mapping of str to dtype
        Types to convert to while reading.
    transforms : tuple of Transform
        Already bound to this data set.
    part : MixPart or None
        What the data set is in a mixture.
    """

    collection: SampleCollection
    columns: tuple[str, ...] | None = None
    dtypes: Mapping[str, npt.DTypeLike] | None = None
    transforms: tuple[Transform, ...] = ()
    part: MixPart | None = None

    @property
    def copies(self) -> bool:
        """Whether rows of arrays are copied as they are stored: neither decompressed nor transformed."""
        catalog = self.collection.catalog
        stored = not self.transforms and bool((catalog.tar_bytes == catalog.file_bytes).all())
        return stored and all(spec.dtype is not None and spec.shape is not None for spec in self.delivered().values())

    def delivered(self) -> dict[str, ColumnSpec]:
        """Return the columns that are read, with the types that they are converted to."""
        found = self.collection.columns
        dtypes = self.dtypes or {}
        return {
            name: replace(found[name], dtype=np.dtype(dtypes[name]).str) if name in dtypes else self._typed(found[name])
            for name in (found if self.columns is None else self.columns)
        }

    def _typed(self, spec: ColumnSpec) -> ColumnSpec:
        """Return a column that some samples lack with the type of its first value, where that is a Python number."""
        if spec.dtype is not None or self.collection.is_everywhere(spec.name):
            return spec
        row = self.collection.first_row_with(spec.name)
        value = None if row is None else self.collection.gather([row], [spec.name])[spec.name][0]
        return replace(spec, dtype=np.dtype(type(value)).str, shape=()) if type(value) in NUMBERS else spec

    def optional(self) -> set[str]:
        """Return the columns that are read and that some samples lack."""
        return {name for name in self.delivered() if not self.collection.is_everywhere(name)}

    def select(self, rows: Rows) -> PreparedRows:
        """Find out where the values of rows lie."""
        return self.collection.select(rows, self.columns)

    def read(self, rows: Rows, on_error: OnError = "raise", selection: PreparedRows | None = None) -> Read:
        """Read rows and transform them; metadata are decoded when used.

        Parameters
        ----------
        rows : numpy.ndarray of int64
            What to read.
        on_error : "raise" or "skip"
            Skip: rows that cannot be read are left out, and listed.
        selection : PreparedRows, optional
            Where the values lie, if that is known already.

        Returns
        -------
        (columns, metadata, failures)
            Values by column, metadata by row, and the rows that could not be read: their places among those asked for,
            and what was wrong.
        """
        failures: Failures = ()
        try:
            if selection is None:
                columns = self.collection.gather(rows, self.columns, dtypes=self.dtypes)
            else:
                columns = self.collection.read(selection, dtypes=self.dtypes)
        except FormatError:
            if on_error == "raise":
                raise
            failures = self._damaged(rows)
            rows = np.delete(rows, [i for i, _ in failures])
            columns = self.collection.gather(rows, self.columns, dtypes=self.dtypes)
        metadata: Sequence[Metadata] = LazyMetadata.later(self.metadata, rows)
        if self.transforms:
            block = apply(self.transforms, Block(columns, metadata), partial(self.describe, rows))
            columns, metadata = dict(block.columns), block.metadata
        if self.part is not None:
            columns = self.part.joint(self.collection, columns)
        return columns, metadata, failures

    def metadata(self, rows: Rows) -> list[dict[str, Any]]:
        """Return the metadata of rows."""
        found = self.collection.metadata(rows)
        return found if self.part is None else self.part.named(found)

    def describe(self, rows: Rows, place: int) -> str:
        """Describe one of some rows, for messages."""
        return f"sample {self.collection.describe(int(rows[place]))}"

    def _damaged(self, rows: Rows) -> Failures:
        found = ((i, self._problem(rows[i : i + 1])) for i in range(len(rows)))
        return tuple((i, text) for i, text in found if text is not None)

    def _problem(self, row: Rows) -> str | None:
        try:
            self.collection.gather(row, self.columns, dtypes=self.dtypes)
        except FormatError as error:
            return str(error)
        return None


@dataclass(frozen=True)
class Finish:
    """Turns values and metadata into the batch that the training loop gets.

    Attributes
    ----------
    transform : callable or None
        Given each sample as a dict of tensors (with its metadata under ``metadata``), returns the sample to use.
    batch_transform : callable or None
        Given the whole batch, returns the batch to use.
    tensors : TensorOptions
        How columns become tensors; what they say of the columns holds where no ``transform`` changes them.
    metadata : bool
        Whether batches have ``metadata``.
    """

    transform: SampleFunction | None = None
    batch_transform: BatchFunction | None = None
    tensors: TensorOptions = PLAIN
    metadata: bool = True

    def __call__(
        self, values: Mapping[str, ColumnData], metadata: Sequence[Metadata], describe: Describe = "sample {}".format
    ) -> Any:
        """Return the batch; ``describe`` names samples in messages."""
        wanted = metadata if self.metadata else None
        if self.transform is not None:
            return self.collate(transformed(self.transform, split_samples(values, wanted), describe), describe)
        return self._last(batch_to_tensors(values, wanted, self.tensors), len(metadata), describe)

    def collate(self, samples: Sequence[Mapping[str, Any]], describe: Describe = "sample {}".format) -> Any:
        """Return the batch of samples that went through ``transform`` already."""
        for i, sample in enumerate(samples):
            if not isinstance(sample, Mapping):
                raise TransformError(
                    f"transform={name_of(self.transform)} returned {type(sample).__name__} for {describe(i)}, and "
                    "batches are made of dicts: return a dict of fields, and give what changes whole batches as "
                    "batch_transform="
                )
        changed = self.transform is not None
        options = replace(self.tensors, columns={}, optional=frozenset()) if changed else self.tensors
        return self._last(collate(samples, options), len(samples), describe)

    def _last(self, batch: Batch, count: int, describe: Describe) -> Any:
        function = self.batch_transform
        if function is None:
            return batch
        return call(function, f"batch_transform={name_of(function)}", batch, partial(between, describe, count))


class BatchFetch(LookingAhead):
    """Makes the batch of a request; picklable when its transforms are; used by several threads at once.

    Parameters
    ----------
    readers : sequence of RowReader
        One per data set of the plan.
    finish : Finish
        What is done once the rows are there.
    on_error : "raise" or "skip"
        Skip: samples that cannot be read are left out and the batch is smaller. It is never empty, so every rank
        still takes the same number of steps: a batch of which nothing can be read is an error.
    """

    def __init__(self, readers: Sequence[RowReader], finish: Finish, on_error: OnError = "raise") -> None:
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error={on_error!r}; choose 'raise' or 'skip'")
        self.readers = tuple(readers)
        self._finish = finish
        self._on_error: OnError = on_error

    @property
    def copies(self) -> bool:
        """Whether batches are copies of stored rows: nothing is decompressed or transformed."""
        plain = self._finish.transform is None and self._finish.batch_transform is None
        return plain and all(reader.copies for reader in self.readers)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Any:
        """Make of single samples the batch that this makes of their rows; a ``collate_fn`` for a DataLoader."""
        return self._finish.collate(samples)

    def __call__(self, request: Request, selection: PreparedRows | None = None) -> Fetched:
        """Read, transform, join, finish; ``selection`` says where the values of the only part lie, if that is known."""
        if len(request.parts) > 1 or request.order is not None:
            return self._of_parts(request)
        ((number, rows),) = request.parts
        columns, metadata, failures = self.readers[number].read(rows, self._on_error, selection)
        if failures:
            _check_any_left(failures, len(rows))
        return Fetched(self._finish(columns, metadata, partial(self._describe, request, failures)), failures)

    def _of_parts(self, request: Request) -> Fetched:
        blocks, failures, start = [], [], 0
        for number, rows in request.parts:
            columns, metadata, failed = self.readers[number].read(rows, self._on_error)
            blocks.append(Block(columns, metadata))
            failures += [(start + i, text) for i, text in failed]
            start += len(rows)
        _check_any_left(failures, start)
        placed = _in_batch(request.order, failures)
        joined = self._joined(request, blocks, placed)
        describe = partial(self._describe, request, placed)
        return Fetched(self._finish(joined.columns, joined.metadata, describe), placed)

    def _describe(self, request: Request, failures: Failures, place: int) -> str:
        """Describe a sample of a request's batch, of which some could not be read."""
        kept = np.delete(_order(request), [i for i, _ in failures])
        at = int(kept[place])
        for number, rows in request.parts:
            if at < len(rows):
                return self.readers[number].describe(rows, at)
            at -= len(rows)
        raise IndexError(f"{place} of {counted(len(kept), 'sample')}")

    def in_epoch(self, epoch: int, requests: Iterable[Request]) -> Iterable[Request]:
        """Give requests with their rows under the numbers that they have in this epoch."""
        moving = any(reader.collection.moves for reader in self.readers)
        return self._renumbered(epoch, requests) if moving else requests

    def _renumbered(self, epoch: int, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            request.parts = tuple((n, self.readers[n].collection.rows_in(epoch, rows)) for n, rows in request.parts)
            yield request

    def look_ahead(self, task: Task) -> list[Step]:
        """See :meth:`LookingAhead.look_ahead`: one search for all batches of one data set."""
        singly: list[Step] = [partial(self, request) for request in task]
        if self._finds_while_copying():
            return singly
        numbers = {number for request in task for number, _ in request.parts}
        if len(numbers) > 1 or any(len(request.parts) > 1 or request.order is not None for request in task):
            return singly
        rows = [request.parts[0][1] for request in task]
        try:
            parts = self.readers[numbers.pop()].select(np.concatenate(rows)).cut(map(len, rows))
        except Exception:  # noqa: BLE001  (looked for one by one, each fails in its turn, with its own error)
            return singly
        return [partial(self, request, part) for request, part in zip(task, parts, strict=True)]

    def _finds_while_copying(self) -> bool:
        return all(reader.collection.finds_while_copying(reader.columns) for reader in self.readers)

    def metadata(self, request: Request, failures: Failures) -> LazyMetadata:
        """Return the metadata that the batch of a request has when no transform changes it."""
        kept = np.delete(_order(request), [i for i, _ in failures])
        return LazyMetadata.later(partial(self._metadata, request.parts), kept)

    def _metadata(self, parts: tuple[tuple[int, Rows], ...], order: Rows) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        start = 0
        for number, rows in parts:
            mine = sorted_unique(order[(order >= start) & (order < start + len(rows))])
            found |= zip(mine.tolist(), self.readers[number].metadata(rows[mine - start]), strict=True)
            start += len(rows)
        return [found[i] for i in order.tolist()]

    def _joined(self, request: Request, blocks: list[Block], failures: Failures) -> Block:
        """Join the parts and put them into the batch's order; nobody's metadata is decoded for that."""
        untouched = all(isinstance(block.metadata, LazyMetadata) and not block.metadata.decoded for block in blocks)
        metadata = self.metadata(request, failures) if untouched else None
        if untouched:
            blocks = [replace(block, metadata=[{}] * len(block)) for block in blocks]
        joined = concat_blocks(blocks)
        if request.order is not None:
            joined = take(joined, _without(request.order, failures))
        return joined if metadata is None else replace(joined, metadata=metadata)


def _check_any_left(failures: Sequence[tuple[int, str]], asked: int) -> None:
    if failures and len(failures) == asked:
        raise FormatError(f"no sample of a batch of {asked:,} can be read; the first: {failures[0][1]}")


def _order(request: Request) -> Rows:
    return np.arange(len(request)) if request.order is None else request.order


def _in_batch(order: Rows | None, failures: list[tuple[int, str]]) -> Failures:
    """Turn places in the joined parts into places in the batch."""
    if order is None or not failures:
        return tuple(failures)
    texts = dict(failures)
    return tuple((place, texts[i]) for place, i in enumerate(order.tolist()) if i in texts)


def _without(order: Rows, failures: Failures) -> Rows:
    """Return the order of what is left of the joined parts."""
    failed = [place for place, _ in failures]
    left = np.ones(len(order), dtype=np.bool_)
    left[order[failed]] = False
    new: Rows = np.cumsum(left)[np.delete(order, failed)] - 1
    return new


class _Deferred(enum.Enum):
    """Stands for metadata that the parent process decodes itself, if anyone looks at it."""

    METADATA = "metadata"


class RemoteFetch:
    """A fetch for worker processes: metadata that nobody looked at is not sent to the parent."""

    def __init__(self, fetch: BatchFetch) -> None:
        self._fetch = fetch

    def __call__(self, request: Request) -> Fetched:
        """Fetch, and leave lazy metadata out."""
        fetched = self._fetch(request)
        batch = fetched.batch
        lazy = batch.get("metadata") if isinstance(batch, dict) else None
        if isinstance(lazy, LazyMetadata) and not lazy.decoded:
            batch["metadata"] = _Deferred.METADATA
        return fetched


def restored(fetch: BatchFetch, fetched: Fetched, request: Request) -> Fetched:
    """Put the metadata back that :class:`RemoteFetch` left out."""
    batch = fetched.batch
    if isinstance(batch, dict) and batch.get("metadata") is _Deferred.METADATA:
        batch["metadata"] = fetch.metadata(request, fetched.failures)
    return fetched


@dataclass(frozen=True)
class SampleFetch:
    """Reads rows and gives them one by one.

    Attributes
    ----------
    reader : RowReader
        Reads and transforms.
    transform : callable or None
        Given each sample, returns the sample to use.
    metadata : bool
        Whether samples have ``metadata``.
    on_error : "raise" or "skip"
        What happens to samples that cannot be read.
    decode : bool
        False: fields, the metadata too, are bytes as they are stored.
    """

    reader: RowReader
    transform: SampleFunction | None = None
    metadata: bool = True
    on_error: OnError = "raise"
    decode: bool = True

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error={self.on_error!r}; choose 'raise' or 'skip'")

    def __call__(self, rows: npt.NDArray[np.int64]) -> Fetched:
        """Return the samples of rows; ``batch`` is a list of dicts, without those that failed."""
        if self.decode:
            columns, metadata, failures = self.reader.read(rows, self.on_error)
            found = list(split_samples(columns, metadata if self.metadata else None))
        else:
            failures = ()
            found = [self._stored(row) for row in rows.tolist()]
        if self.transform is None:
            return Fetched(found, failures)
        left = np.delete(rows, [i for i, _ in failures])
        return Fetched(transformed(self.transform, found, partial(self.reader.describe, left)), failures)

    def _stored(self, row: int) -> dict[str, Any]:
        collection = self.reader.collection
        names = [*(collection.columns if self.reader.columns is None else self.reader.columns)]
        names += [METADATA_FIELD] if self.metadata else []
        return {name: collection.payload(row, name) for name in names if collection.has(row, name)}


class SkipCounter:
    """Counts and reports samples that were left out, and gives up when too many of them follow one another.

    Attributes
    ----------
    total : int
        Samples left out so far.
    """

    def __init__(self) -> None:
        self.total = 0
        self._in_a_row = 0

    def add(self, fetched: Fetched, asked: Sized) -> None:
        """Take the next batch into account; ``asked`` has the length that it had before any samples were left out.

        Raises
        ------
        FormatError
            Too many samples in a row could not be read.
        """
        if not fetched.failures:
            self._in_a_row = 0
            return
        after = 0
        for place, text in fetched.failures:
            self._in_a_row = self._in_a_row + 1 if place == after else 1
            after = place + 1
            self.total += 1
            _log.warning("left out a sample that cannot be read: %s", text)
            if self._in_a_row >= MOST_IN_A_ROW:
                raise FormatError(
                    f"{counted(self._in_a_row, 'sample')} in a row cannot be read, the last of them: {text}. This "
                    "is more than single damaged samples: check the storage, run `neurofm-shards validate`"
                )
        if after < len(asked):
            self._in_a_row = 0
