"""``.json``: numbers, strings, booleans, None, lists and dicts; and samples' metadata."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from math import isfinite
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
import orjson

from neurofm_shards.errors import EncodeError, FormatError
from neurofm_shards.plugins.interfaces import Codec

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer, Metadata

#: Deepest nesting of lists and dicts that is read or written.
MAX_DEPTH = 100
_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


class JsonCodec(Codec):
    """Anything JSON can hold, exactly: a value that would change on the way is refused.

    Refused are NaN and infinity, integers beyond 64 bits, keys that are no strings, and arrays and dates inside lists
    and dicts. Tuples come back as lists. Foreign payloads may hold NaN and Infinity, as Python's ``json`` writes them.

    Examples
    --------
    >>> codec = JsonCodec()
    >>> codec.decode(memoryview(b"".join(codec.encode({"trial": 3, "correct": True}))))
    {'trial': 3, 'correct': True}
    """

    name: ClassVar[str] = "json"
    extension: ClassVar[str] = "json"

    def accepts(self, value: object) -> bool:
        """Numbers, strings, booleans, None, lists, tuples and dicts; NumPy scalars are arrays."""
        return isinstance(value, _PLAIN) and not isinstance(value, np.generic)

    def encode(self, value: Any) -> Sequence[Buffer]:
        """Return the JSON text in UTF-8."""
        data = _dumps(value, _STRICT, _refuse)
        if b"null" in data:
            _refuse_not_finite(value, "value")
        return [data]

    def decode(self, payload: memoryview) -> Any:
        """Return the value; see the base class."""
        data = bytes(payload)
        _check_depth(data)
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return _loads_foreign(data, error)


def metadata_bytes(metadata: Metadata) -> bytes:
    """Return the JSON text of one sample's metadata.

    NaN and infinity become null; NumPy scalars become numbers and arrays of numbers, booleans or strings become lists;
    dates and times become ISO 8601 strings, paths become strings with forward slashes. Floats stay floats (``1.0``).

    Raises
    ------
    EncodeError
        A value is none of these, an integer has more than 64 bits, or a key is no string.
    """
    if not isinstance(metadata, dict):
        raise EncodeError(f"metadata must be a dict, not {type(metadata).__name__}")
    return _dumps(metadata, orjson.OPT_PASSTHROUGH_DATACLASS, _metadata_value)


def metadata_from_bytes(data: Buffer) -> Metadata:
    """Return metadata from its JSON text.

    Raises
    ------
    FormatError
        It is not JSON, too deep, or not an object.
    """
    value = JsonCodec().decode(memoryview(data))
    if not isinstance(value, dict):
        raise FormatError(f"metadata must be a JSON object, not {type(value).__name__}")
    return value


def strict_json(data: Buffer) -> Any:
    """Parse JSON that other code relies on (manifests, checkpoints): nothing doubtful passes.

    Raises
    ------
    FormatError
        It is not JSON, is nested deeper than ``MAX_DEPTH``, repeats a key, or holds NaN or Infinity.
    """
    text = bytes(data)
    _check_depth(text)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, FormatError) else FormatError(f"not valid JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"the JSON key {twice[:60]!r} is given twice")
    return found


def _not_json(name: str) -> NoReturn:
    raise FormatError(f"{name} is not JSON")


def _dumps(value: Any, options: int, default: Any) -> bytes:
    try:
        return orjson.dumps(value, default, options)
    except EncodeError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # orjson.JSONEncodeError is a TypeError
        cause = error.__cause__
        if isinstance(cause, EncodeError):
            raise EncodeError(str(cause)) from error
        raise EncodeError(f"cannot be stored as JSON: {error}{_hint(str(error))}") from error


def _hint(message: str) -> str:
    if "64-bit" in message:
        return "; store it as a string"
    if "must be str" in message:
        return "; make the keys strings"
    return ""


def _refuse(value: object) -> NoReturn:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    raise EncodeError(
        f"a {name} cannot be stored as JSON: give arrays a field of their own, and everything else as numbers, "
        "strings, lists and dicts"
    )


def _refuse_not_finite(value: Any, where: str) -> None:
    """Raise for the first NaN or infinity (orjson would write null without a word)."""
    if isinstance(value, float) and not isfinite(value):
        raise EncodeError(f"{where} is {value}, which JSON cannot hold: use None, or an array")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_not_finite(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _refuse_not_finite(item, f"{where}[{i}]")


def _metadata_value(value: object) -> Any:
    """Return what JSON can hold for a value that orjson does not know."""
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufUO":
        return value.tolist()
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return str(value)
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, PurePath):
        return value.as_posix()
    return _refuse(value)


def _check_depth(data: bytes) -> None:
    """Refuse deep nesting before anything recurses."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth, inside, escaped = 0, False, False
    for byte in data:
        if inside:
            inside, escaped = escaped or byte != 0x22, byte == 0x5C and not escaped
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise FormatError(f"JSON nested deeper than {MAX_DEPTH}")
        elif byte in b"]}":
            depth -= 1


def _loads_foreign(data: bytes, error: orjson.JSONDecodeError) -> Any:
    """Parse what Python's ``json`` writes and JSON does not allow (NaN, Infinity), or raise ``FormatError``."""
    if b"NaN" in data or b"Infinity" in data:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as second:
            raise FormatError(f"not valid JSON: {second}") from second
    raise FormatError(f"not valid JSON: {error}") from error
