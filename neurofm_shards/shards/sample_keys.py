"""Keys of the samples that are being written, as texts and as rows of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import ConfigError
from neurofm_shards.format.keys import escape_key

_PREFIX = "sample_"
_DIGITS = 9


@dataclass(frozen=True)
class SampleKeys:
    """Keys and ids of ``n`` samples.

    Attributes
    ----------
    keys : list of str
        What the members' names begin with.
    ids : list of str
        What the metadata calls the samples: the callers' own texts.
    same_length : bool
        Whether all keys have equally many bytes.
    """

    keys: list[str]
    ids: list[str]
    same_length: bool

    @property
    def plain(self) -> bool:
        """Whether every key is its id."""
        return self.keys is self.ids

    def matrix(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return keys as rows of bytes, shape (stop - start, length)."""
        part = self.keys[start:stop]
        return np.frombuffer("".join(part).encode(), np.uint8).reshape(len(part), -1)


def automatic_key(number: int) -> str:
    """Return the automatic key of a sample."""
    return f"{_PREFIX}{number:0{_DIGITS}d}"


def automatic_number(key: str) -> int | None:
    """Return the number of an automatic key; None for any other key."""
    digits = key.removeprefix(_PREFIX)
    if digits == key or not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        return None
    number = int(digits)
    return number if automatic_key(number) == key else None


def automatic_keys(numbers: npt.NDArray[np.int64]) -> SampleKeys:
    """Return the automatic keys of samples.

    Raises
    ------
    ConfigError
        A number is negative.
    """
    if len(numbers) and int(numbers.min()) < 0:
        raise ConfigError(f"sample number {int(numbers.min())} is negative: automatic keys count from 1")
    keys = [automatic_key(number) for number in numbers.tolist()]
    return SampleKeys(keys, keys, len(keys) == 0 or int(numbers.max()) < 10**_DIGITS)


def one_automatic_key(number: int) -> SampleKeys:
    """Return the automatic key of one sample."""
    keys = [automatic_key(number)]
    return SampleKeys(keys, keys, same_length=True)


def named_keys(ids: Sequence[str | int]) -> SampleKeys:
    """Return the keys of samples that their caller named, with any text or number.

    Raises
    ------
    ConfigError
        An id is empty, or neither text nor number.
    """
    texts = [_text(value) for value in ids]
    keys = [escape_key(text) for text in texts]
    return SampleKeys(texts if keys == texts else keys, texts, len(set(map(len, keys))) == 1)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    raise ConfigError(f"sample id {value!r} is a {type(value).__name__}; use a text or a whole number")
