"""Names inside a shard: keys, fields and extensions; how any text becomes a key, and keys as rows of bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from neurofm_shards.errors import ConfigError

#: Longest key that is written; longer ones are cut and made unique by a hash.
KEY_BYTES = 56
#: A USTAR name without prefix.
NAME_BYTES = 100
#: The field that holds a sample's metadata.
METADATA_FIELD = "metadata"
#: The field of a stored recording's first sample that describes the recording; only such data sets have it.
RECORDING_FIELD = "recording"

_KEY = re.compile(r"(?!__)[A-Za-z0-9_-]+")
_FIELD = re.compile(r"(?!__)[A-Za-z0-9_-]+")
_EXTENSION = re.compile(r"[a-z0-9]+")
_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_LOOKS_ESCAPED = re.compile(r"_(?=x[0-9a-f]{2})")


class NameParts(NamedTuple):
    """A member's name taken apart: ``key.field.extension``."""

    key: str
    field: str
    extension: str


def split_name(name: str) -> NameParts | None:
    """Take a member's name apart as WebDataset does: the key ends at the first dot of the last path component.

    Parameters
    ----------
    name : str
        ``"k.spikes.pyd"``, or as others write it: ``"k.npy"`` (the field is then called after its extension),
        ``"folder/k.npy"`` (the folder is part of the key).

    Returns
    -------
    NameParts or None
        None for a name that belongs to no sample: no dot, a hidden file, ``__like_this__``.

    Examples
    --------
    >>> tuple(split_name("k.spikes.pyd")), tuple(split_name("./a/k.npy"))
    (('k', 'spikes', 'pyd'), ('a/k', 'npy', 'npy'))
    """
    while name.startswith("./"):
        name = name[2:]
    folder, slash, base = name.rpartition("/")
    stem, _, rest = base.partition(".")
    if not stem or not rest or (base.startswith("__") and base.endswith("__")):
        return None
    field, _, extension = rest.rpartition(".")
    return NameParts(folder + slash + stem, field or extension, extension.lower())


def escape_key(text: str) -> str:
    """Turn any text into a key; different texts of moderate length give different keys.

    Letters, digits, ``-`` and ``_`` stay; every other byte of the UTF-8 text becomes ``_xHH``. A leading ``__`` and
    anything that already looks like an escape have their ``_`` escaped. More than ``KEY_BYTES`` bytes are cut and end
    in a hash of the whole.

    Raises
    ------
    ConfigError
        The text is empty or is not valid Unicode.

    Examples
    --------
    >>> escape_key("ses.01"), escape_key("__x"), escape_key("a_x2e")
    ('ses_x2e01', '_x5f_x', 'a_x5fx2e')
    """
    if not text:
        raise ConfigError("a sample id is empty: give every sample a text or a number, or none at all")
    text = _LOOKS_ESCAPED.sub("_x5f", text)
    try:
        key = "".join(c if _PLAIN.match(c) else "".join(f"_x{b:02x}" for b in c.encode()) for c in text)
    except UnicodeEncodeError as error:
        raise ConfigError(f"sample id {text!r} is not valid Unicode text: {error.reason}") from error
    if key.startswith("__"):  # readers skip such members; the second may be that of an escape
        key = "_x5f" + key[1:]
    if len(key) <= KEY_BYTES:
        return key
    return f"{key[: KEY_BYTES - 18]}_h{xxhash.xxh3_64_hexdigest(key.encode())}"


def check_key(key: str) -> str:
    """Return the key when it can be written as it stands (raises ConfigError)."""
    if len(key) > KEY_BYTES or not _KEY.fullmatch(key):
        raise ConfigError(
            f"key {key!r} cannot be written: use up to {KEY_BYTES} of [A-Za-z0-9_-], not starting with '__' "
            "(escape_key makes a key of any text)"
        )
    return key


def check_field(field: str) -> str:
    """Return the field name when it can be written (raises ConfigError)."""
    if not isinstance(field, str) or not _FIELD.fullmatch(field):
        raise ConfigError(
            f"field name {field!r} cannot be written: use letters, digits, '_' and '-' (no dots), not '__'"
        )
    if field.lower() == METADATA_FIELD:
        raise ConfigError(f"field name {field!r} is reserved: give metadata through the argument 'metadata'")
    return field


def check_extension(extension: str) -> str:
    """Return the extension when it can be written: lower-case letters and digits (raises ConfigError)."""
    if not _EXTENSION.fullmatch(extension):
        raise ConfigError(f"extension {extension!r} of a codec cannot be written: use [a-z0-9] only")
    return extension


def key_hash(key: str) -> int:
    """Return the number by which keys are looked up and compared, before the keys themselves are."""
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))


AUTOMATIC_PREFIX = "sample_"
AUTOMATIC_DIGITS = 9


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
    def keys_are_ids(self) -> bool:
        """Whether every key is its id."""
        return self.keys is self.ids

    def matrix(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return keys as rows of bytes, shape (stop - start, length)."""
        part = self.keys[start:stop]
        return np.frombuffer("".join(part).encode(), np.uint8).reshape(len(part), -1)


def automatic_key(number: int) -> str:
    """Return the automatic key of a sample."""
    return f"{AUTOMATIC_PREFIX}{number:0{AUTOMATIC_DIGITS}d}"


def automatic_number(key: str) -> int | None:
    """Return the number of an automatic key; None for any other key."""
    digits = key.removeprefix(AUTOMATIC_PREFIX)
    if digits == key or not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        return None
    number = int(digits)
    return number if automatic_key(number) == key else None


def automatic_keys(numbers: npt.NDArray[np.int64]) -> SampleKeys:
    """Return the automatic keys of samples (raises ConfigError)."""
    if len(numbers) and int(numbers.min()) < 0:
        raise ConfigError(f"sample number {int(numbers.min())} is negative: automatic keys count from 1")
    keys = [automatic_key(number) for number in numbers.tolist()]
    return SampleKeys(keys, keys, len(keys) == 0 or int(numbers.max()) < 10**AUTOMATIC_DIGITS)


def one_automatic_key(number: int) -> SampleKeys:
    """Return the automatic key of one sample."""
    keys = [automatic_key(number)]
    return SampleKeys(keys, keys, same_length=True)


def named_keys(ids: Sequence[str | int]) -> SampleKeys:
    """Return the keys of samples that their caller named, with any text or number (raises ConfigError)."""
    texts = [_text(value) for value in ids]
    keys = [escape_key(text) for text in texts]
    return SampleKeys(texts if keys == texts else keys, texts, len(set(map(len, keys))) == 1)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    raise ConfigError(f"sample id {value!r} is a {type(value).__name__}; use a text or a whole number")
