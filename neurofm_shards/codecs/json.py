"""JSON: Python's own values as a field, and the metadata of every sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import orjson

from neurofm_shards.errors import EncodeError, FormatError
from neurofm_shards.plugins.interfaces import Codec
from neurofm_shards.types import Buffer

#: Deepest nesting that is written or read.
MAX_DEPTH = 64
#: Largest JSON member that is read.
MAX_BYTES = 64 << 20

_PLAIN = (str, int, float, bool, type(None))


class JsonCodec(Codec):
    """Numbers, strings, booleans, None, lists and dicts.

    Not-a-number and infinity have no spelling in JSON and are refused: store an array, or None. Tuples come back as
    lists, and the keys of dicts must be strings.
    """

    name: ClassVar[str] = "json"
    extension: ClassVar[str] = "json"

    def accepts(self, value: object) -> bool:
        """Say whether the value is of a type that JSON knows."""
        return isinstance(value, (*_PLAIN, list, tuple, dict))

    def encode(self, value: Any) -> Sequence[Buffer]:
        """Return the value as compact UTF-8 JSON.

        Raises
        ------
        EncodeError
            Somewhere inside is a value that JSON cannot hold; the message says where.
        """
        _check(value, "value", 0)
        return [_dump(value)]

    def decode(self, payload: memoryview) -> Any:
        """Return the value.

        Raises
        ------
        FormatError
            The bytes are not JSON, or nested too deeply.
        """
        return _load(payload, "JSON member")


def metadata_bytes(metadata: Mapping[str, Any]) -> bytes:
    """Return a sample's metadata as compact JSON.

    NumPy scalars and arrays become numbers and lists; not-a-number and infinity become null, which every reader
    understands as "not known".

    Raises
    ------
    EncodeError
        Something inside has no JSON form; the message says where and of which type it is.
    """
    try:
        return _dump(dict(metadata), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATETIME)
    except EncodeError:
        # The slow way round: it finds what orjson cannot say (non-native byte order, sets, where it was).
        return _dump(plain(metadata, "metadata"))


def metadata_from_bytes(data: Buffer) -> dict[str, Any]:
    """Return the metadata that :func:`metadata_bytes` (or anyone else) wrote.

    Raises
    ------
    FormatError
        The bytes are not a JSON object.
    """
    value = _load(data, "metadata")
    if not isinstance(value, dict):
        raise FormatError(f"metadata must be a JSON object, but this is a {type(value).__name__}")
    return value


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """Turn NumPy values inside a structure into Python's own, naming the place of anything that has no JSON form.

    Raises
    ------
    EncodeError
        Naming the place and the type.
    """
    if depth > MAX_DEPTH:
        raise EncodeError(f"{where} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, _PLAIN):
        return _checked_int(value, where)
    if isinstance(value, Mapping):
        return {_key(key, where): plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise EncodeError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which JSON cannot hold; "
        "give a number, string, boolean, None, list or dict (a date: its isoformat())"
    )


def _check(value: Any, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise EncodeError(f"{where} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise EncodeError(f"{where} is {value}, which JSON cannot hold; store it in an array, or use None")
    if isinstance(value, dict):
        for key, item in value.items():
            _check(item, f"{where}.{_key(key, where)}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check(item, f"{where}[{i}]", depth + 1)
    elif isinstance(value, _PLAIN):
        _checked_int(value, where)
    else:
        raise EncodeError(f"{where} is a {type(value).__qualname__}, which JSON cannot hold")


def _checked_int(value: Any, where: str) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise EncodeError(f"{where} is {value}, which does not fit into 64 bits; store it as a string")
    return value


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise EncodeError(f"{where} has the key {key!r}; the keys of JSON objects are strings")
    return key


def _dump(value: Any, option: int = 0) -> bytes:
    try:
        return orjson.dumps(value, option=option)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise EncodeError(f"not to be held in JSON: {error}") from error


def _load(data: Buffer, what: str) -> Any:
    size = memoryview(data).nbytes
    if size > MAX_BYTES:
        raise FormatError(f"{what} of {size} bytes is larger than the {MAX_BYTES} that are read")
    try:
        value = orjson.loads(data)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON: {error}") from error
    if _deeper_than(value, MAX_DEPTH):
        raise FormatError(f"{what} is nested more than {MAX_DEPTH} levels deep")
    return value


def _deeper_than(value: Any, levels: int) -> bool:
    layer = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels + 1):
        if not layer:
            return False
        children = [item for one in layer for item in (one.values() if isinstance(one, dict) else one)]
        layer = [item for item in children if isinstance(item, (dict, list))]
    return True
