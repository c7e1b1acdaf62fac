"""``.json``: numbers, strings, booleans, None, lists and dicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
import orjson

from neurofm_shards.errors import EncodeError, FormatError
from neurofm_shards.limits import MAX_JSON_DEPTH, is_too_deep
from neurofm_shards.plugins.interfaces import Codec

if TYPE_CHECKING:
    from neurofm_shards.types import Buffer

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
        data = _dumps(value)
        if is_too_deep(data):
            raise EncodeError(f"a value is nested deeper than {MAX_JSON_DEPTH} lists and dicts, which no reader takes")
        if b"null" in data:
            _refuse_not_finite(value, "value")
        return [data]

    def decode(self, payload: memoryview) -> Any:
        """Return the value; see the base class."""
        data = bytes(payload)
        if is_too_deep(data):
            raise FormatError(f"JSON nested deeper than {MAX_JSON_DEPTH}")
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return _loads_foreign(data, error)


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value, _refuse, _STRICT)
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


def _loads_foreign(data: bytes, error: orjson.JSONDecodeError) -> Any:
    """Parse what Python's ``json`` writes and JSON does not allow (NaN, Infinity), or raise ``FormatError``."""
    if b"NaN" in data or b"Infinity" in data:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as second:
            raise FormatError(f"not valid JSON: {second}") from second
    raise FormatError(f"not valid JSON: {error}") from error
