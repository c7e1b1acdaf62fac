"""Make the metadata member of each sample: what every sample says, and what its caller says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neurofm_shards._typing import Bytes
from neurofm_shards.errors import EncodeError
from neurofm_shards.format.headers import decimal_digits, padded
from neurofm_shards.format.keys import SampleKeys
from neurofm_shards.limits import MAX_JSON_DEPTH, is_too_deep
from neurofm_shards.values import json_bytes

#: Written for every sample, in this order, before what the caller says.
AUTOMATIC = ("sample_id", "modalities", "shard_idx", "sample_idx_in_shard")
_AUTOMATIC = frozenset(AUTOMATIC)
_MAY_HOLD_TIMES = frozenset((np.datetime64, np.ndarray, list, tuple, dict))
#: Units of time of which less than a microsecond can be said.
_FINE = frozenset(("ns", "ps", "fs", "as"))


def encode_own(metadata: Mapping[str, Any], key: str) -> bytes:
    """Return the metadata that a caller gives of a sample as the inside of a JSON object: ``,"name":value...``.

    The automatic names are left out: they are written anew.

    Raises
    ------
    EncodeError
        A value is nothing JSON can hold, or nested too deeply.
    """
    if not metadata:
        return b""
    own: Mapping[str, Any] = metadata
    if not _AUTOMATIC.isdisjoint(metadata):
        own = {name: value for name, value in metadata.items() if name not in _AUTOMATIC}
    if not _MAY_HOLD_TIMES.isdisjoint(map(type, own.values())):
        own = {name: _exact_times(value) for name, value in own.items()}
    try:
        text = json_bytes(own)
    except TypeError as error:
        raise EncodeError(f"sample {key!r}: {_culprit(own)} ({error})") from error
    if is_too_deep(text):
        raise EncodeError(f"sample {key!r}: its metadata is nested deeper than {MAX_JSON_DEPTH}, which no reader takes")
    return b"," + text[1:-1] if own else b""


def _exact_times(value: Any, depth: int = MAX_JSON_DEPTH) -> Any:
    """Return a value with the times in it as they are: orjson takes NaT for the year 1677, and cuts nanoseconds off."""
    if isinstance(value, np.datetime64):
        return _exact_time(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "MO":
        return [_exact_times(each, depth - 1) for each in value] if value.ndim else _exact_times(value[()], depth)
    if not depth or not isinstance(value, (list, tuple, dict)):
        return value
    inside = value.values() if isinstance(value, dict) else value
    if _MAY_HOLD_TIMES.isdisjoint(map(type, inside)):
        return value
    exact = [_exact_times(each, depth - 1) for each in inside]
    return dict(zip(value, exact, strict=True)) if isinstance(value, dict) else exact


def _exact_time(time: np.datetime64) -> np.datetime64 | str | None:
    if np.isnat(time):
        return None
    is_cut = np.datetime_data(time.dtype)[0] in _FINE and time != time.astype("M8[us]")
    return str(time) if is_cut else time


def _culprit(metadata: Mapping[Any, Any]) -> str:
    for name, value in metadata.items():
        if not isinstance(name, str):
            return f"the metadata name {name!r} is not a string; use strings"
        if (found := _refused(value, repr(name))) is not None:
            return f"metadata {found}"
    return "its metadata cannot be JSON"


def _refused(value: Any, place: str, depth: int = MAX_JSON_DEPTH) -> str | None:
    """Return what of a value JSON cannot hold, and where it stands; None where it can be held."""
    try:
        json_bytes(value)
    except TypeError:
        pass
    else:
        return None
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        if (odd := next((key for key in value if not isinstance(key, str)), None)) is not None:
            return f"{place} has a name that is not a string, {odd!r}; use strings"
        inside = value.items()
    elif isinstance(value, (list, tuple)):
        inside = enumerate(value)
    found = (_refused(each, f"{place}[{key!r}]", depth - 1) for key, each in inside if depth)
    kind = type(value).__name__
    whole = f"{place} is of type {kind}, which JSON cannot hold; use numbers, strings, lists and dicts"
    return next((each for each in found if each is not None), whole)


@dataclass(frozen=True)
class OwnMetadata:
    """What callers say of ``n`` samples: the inside of each JSON object, and whether all say the same."""

    texts: list[bytes]
    same: bool


def encode_all(metadata: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> OwnMetadata:
    """Return the metadata of many samples as :func:`encode_own` does for one."""
    first = metadata[0]
    if all(entry is first for entry in metadata) or not any(metadata):
        return OwnMetadata([encode_own(first, keys[0])] * len(metadata), same=True)
    texts = [encode_own(entry, key) for entry, key in zip(metadata, keys, strict=True)]
    return OwnMetadata(texts, same=False)


class MetadataTemplate:
    """The automatic part of samples that have the same fields, in one shard.

    Parameters
    ----------
    modalities : sequence of str
        The samples' fields.
    shard_idx : int
        The shard's number.
    """

    def __init__(self, modalities: Sequence[str], shard_idx: int) -> None:
        text = orjson.dumps({"modalities": list(modalities), "shard_idx": shard_idx})
        self._middle = b"," + text[1:-1] + b',"sample_idx_in_shard":'

    def one(self, sample_id: str, number: int, own: bytes) -> bytes:
        """Return one sample's JSON."""
        return b'{"sample_id":%b%b%d%b}' % (orjson.dumps(sample_id), self._middle, number, own)

    def run(self, keys: SampleKeys, own: OwnMetadata, start: int, number: int, limit: int) -> MetadataRun:
        """Return as many samples from ``start`` on as have metadata of one padded size, ``limit`` at most.

        Parameters
        ----------
        keys : SampleKeys
            Of the block.
        own : sequence of bytes
            What the caller says of each sample of the block.
        start : int
            First sample.
        number : int
            Its number in the shard.
        """
        stop = min(len(keys.keys), start + 10 ** len(str(number)) - number, start + max(limit, 1))
        if keys.keys_are_ids and own.same:
            return _SameRun(self._middle, keys, start, stop, number, own.texts[start])
        return _OwnRun([self.one(keys.ids[i], number + i - start, own.texts[i]) for i in range(start, stop)])


class MetadataRun(ABC):
    """Metadata of consecutive samples that have one padded size.

    Attributes
    ----------
    count : int
        How many samples.
    padded_bytes : int
        Bytes of each, up to whole blocks of tar.
    """

    count: int
    padded_bytes: int

    @abstractmethod
    def texts(self) -> tuple[Bytes, npt.NDArray[np.int64]]:
        """Return the samples' texts, (count, m) with zeros behind each, and their sizes."""


class _SameRun(MetadataRun):
    """Samples of which the caller says the same, whose numbers have equally many digits."""

    def __init__(self, middle: bytes, keys: SampleKeys, start: int, stop: int, number: int, own: bytes) -> None:
        self._parts = (b'{"sample_id":"', b'"' + middle, own + b"}")
        self._keys, self._start, self._number = keys, start, number
        self.count = stop - start
        self._size = sum(map(len, self._parts)) + len(keys.keys[start]) + len(str(number))
        self.padded_bytes = padded(self._size)

    def texts(self) -> tuple[Bytes, npt.NDArray[np.int64]]:
        count = self.count
        before, middle, after = (_row(part, count) for part in self._parts)
        numbers = np.arange(self._number, self._number + count, dtype=np.int64)
        digits = decimal_digits(numbers, len(str(self._number)))
        keys = self._keys.matrix(self._start, self._start + count)
        text = np.concatenate([before, keys, middle, digits, after], axis=1)
        return text, np.full(count, self._size, np.int64)


class _OwnRun(MetadataRun):
    """Samples whose metadata differ from one another."""

    def __init__(self, texts: list[bytes]) -> None:
        self.padded_bytes = padded(len(texts[0]))
        differing = (i for i, text in enumerate(texts) if padded(len(text)) != self.padded_bytes)
        self.count = next(differing, len(texts))
        self._texts = texts

    def texts(self) -> tuple[Bytes, npt.NDArray[np.int64]]:
        part = self._texts[: self.count]
        joined = b"".join([text.ljust(self.padded_bytes, b"\0") for text in part])
        sizes = np.array([len(text) for text in part], np.int64)
        return np.frombuffer(joined, np.uint8).reshape(self.count, -1), sizes


def _row(text: bytes, n: int) -> Bytes:
    return np.broadcast_to(np.frombuffer(text, np.uint8), (n, len(text)))
