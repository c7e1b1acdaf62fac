"""What the array codecs have in common: which values they take, and in which form."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards.errors import EncodeError

#: Booleans, integers, floats, complex numbers: nothing that needs Python objects, has fields, or is measured in dates.
PLAIN_KINDS = "biufc"
#: Bounds on what a header may declare.
MAX_DIMENSIONS = 32
MAX_ITEMS = 1 << 40


def is_array(value: object) -> bool:
    """Say whether a value is an array, a NumPy scalar or a tensor (torch is not imported to find out)."""
    return isinstance(value, (np.ndarray, np.generic)) or _is_tensor(value)


def as_plain_array(value: Any) -> npt.NDArray[Any]:
    """Return a C-contiguous array of plain numbers.

    Raises
    ------
    EncodeError
        The dtype is not one of plain numbers, or the tensor has no NumPy form.
    """
    array = _from_tensor(value) if _is_tensor(value) else np.asarray(value)
    if array.dtype.kind not in PLAIN_KINDS or array.dtype.hasobject:
        raise EncodeError(
            f"arrays of dtype {array.dtype} cannot be stored: only booleans, integers, floats and complex numbers can "
            "(text: a list of strings; dates: seconds as float64; fields: one array each)"
        )
    return np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray gives 0-d arrays a dimension


def plain_dtype(text: str) -> np.dtype[Any] | None:
    """Return the dtype that a string like ``<f4`` names, or None when it is not one of plain numbers."""
    if not 2 <= len(text) <= 8 or not text.isascii():
        return None
    body = text[1:] if text[0] in "<>=|" else text
    if body[:1] not in "biufc" or not body[1:].isdigit():
        return None
    try:
        dtype = np.dtype(text)
    except TypeError:
        return None
    return dtype if dtype.kind in PLAIN_KINDS else None


def count_items(shape: tuple[int, ...]) -> int | None:
    """Return the number of items, None when the shape is out of bounds."""
    if len(shape) > MAX_DIMENSIONS:
        return None
    count = 1
    for length in shape:
        if not 0 <= length <= MAX_ITEMS:
            return None
        count *= length
        if count > MAX_ITEMS:
            return None
    return count


def _is_tensor(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def _from_tensor(value: Any) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = value.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:
        raise EncodeError(
            f"a tensor of dtype {value.dtype} has no NumPy form; convert it first (.float()): {error}"
        ) from error
    return array
