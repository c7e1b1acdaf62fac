"""The arrays that every contender writes and is checked against, as ``.npy`` files in a folder. Needs numpy alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: Names of the columns, in order.
_ORDER = "columns.json"


class Source:
    """Columns of equal length; a ragged one is its values end to end, and offsets.

    Row ``i`` says so itself: the first values of the first column are its number.

    Parameters
    ----------
    columns : mapping of str to numpy.ndarray, or (values, offsets)
        The data.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = dict(columns)
        self.names = list(self.columns)
        first = next(iter(self.columns.values()))
        self.count = len(first[1]) - 1 if isinstance(first, tuple) else len(first)

    @classmethod
    def load(cls, folder: Path | str, *, mapped: bool = True) -> Source:
        """Read what :meth:`save` wrote, into memory or as memory maps."""
        folder, mode = Path(folder), "r" if mapped else None

        def read(name: str) -> Any:
            if (folder / f"{name}.npy").exists():
                return np.load(folder / f"{name}.npy", mmap_mode=mode)
            values = np.load(folder / f"{name}.values.npy", mmap_mode=mode)
            return values, np.load(folder / f"{name}.offsets.npy")

        return cls({name: read(name) for name in json.loads((folder / _ORDER).read_text())})

    def save(self, folder: Path) -> None:
        """Number the rows and write the columns."""
        folder.mkdir(parents=True)
        self._number()
        for name, data in self.columns.items():
            if isinstance(data, tuple):
                np.save(folder / f"{name}.values.npy", data[0])
                np.save(folder / f"{name}.offsets.npy", data[1])
            else:
                np.save(folder / f"{name}.npy", data)
        (folder / _ORDER).write_text(json.dumps(self.names))

    def value(self, name: str, row: int) -> np.ndarray:
        """Return one value."""
        data = self.columns[name]
        if isinstance(data, tuple):
            values, offsets = data
            return np.asarray(values[offsets[row] : offsets[row + 1]])
        return np.asarray(data[row])

    def sample(self, row: int) -> dict[str, np.ndarray]:
        """Return one row."""
        return {name: self.value(name, row) for name in self.columns}

    def samples(self) -> Iterator[dict[str, np.ndarray]]:
        """Iterate over the rows."""
        return map(self.sample, range(self.count))

    @property
    def nbytes(self) -> int:
        """All values."""
        arrays = (data[0] if isinstance(data, tuple) else data for data in self.columns.values())
        return sum(int(array.nbytes) for array in arrays)

    def _number(self) -> None:
        data = self.columns[self.names[0]]
        if isinstance(data, tuple):
            values, offsets = data
            values[offsets[:-1], 0] = np.arange(self.count)
            return
        flat = data.reshape(self.count, -1)
        if data.dtype == np.uint8:
            flat[:, :4] = np.arange(self.count, dtype="<u4")[:, None].view("u1")
        else:
            flat[:, 0] = np.arange(self.count)


def row_of(value: np.ndarray, stored: np.dtype[Any]) -> int:
    """Return the number that a value of the first column carries."""
    flat = np.asarray(value).ravel()
    if stored == np.uint8:
        return int(flat[:4].astype("u1").view("<u4")[0])
    return int(flat[0])
