"""Groups of HDF5 files: the links of each are listed in one call, and what they lead to is opened once.

h5py's objects ask the library several times for every name: a file of a hundred objects costs them tens of
milliseconds, and the library three.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class Node:
    """A group of a file.

    Parameters
    ----------
    group : h5py.h5g.GroupID
        The group.
    path : str
        Its place in the file.

    Attributes
    ----------
    id : h5py.h5g.GroupID
    path : str
    links : mapping of str to int
        The kind of each link (``h5py.h5l.TYPE_HARD``, ...) in the group's order, dangling ones among them.
    """

    def __init__(self, group: Any, path: str) -> None:
        self.id = group
        self.path = path
        self.links: Mapping[str, int] = _links(group)
        self._opened: dict[str, Any] = {}
        self._objects: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.links

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the links."""
        return tuple(self.links)

    def place(self, name: str) -> str:
        """Return the place of a member in the file."""
        return f"{self.path}/{name}".strip("/")

    def open(self, name: str) -> Any:
        """Return the low-level object that a link leads to.

        Raises
        ------
        KeyError, OSError
            It leads nowhere, or to something damaged.
        """
        import h5py  # noqa: PLC0415  (only when a file is opened)

        if name not in self._opened:
            self._opened[name] = h5py.h5o.open(self.id, _raw(name))
        return self._opened[name]

    def get(self, name: str) -> Any:
        """Return a member as h5py's object; None where there is none, or a link that leads nowhere."""
        if name not in self.links:
            return None
        if name not in self._objects:
            try:
                self._objects[name] = _wrapped(self.open(name))
            except (KeyError, OSError):
                self._objects[name] = None
        return self._objects[name]

    def external(self, name: str) -> Any:
        """Return a link into another file as h5py describes it."""
        import h5py  # noqa: PLC0415  (only when a file is opened)

        file, path = self.id.links.get_val(_raw(name))
        return h5py.ExternalLink(*(part.decode("utf-8", "surrogateescape") for part in (file, path)))


def _links(group: Any) -> dict[str, int]:
    """Return names and kinds of a group's links, in the order in which they were made where the group keeps it."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    tracked = group.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED
    found: dict[str, int] = {}

    def note(name: bytes, info: Any) -> None:
        found[name.decode("utf-8", "surrogateescape")] = info.type

    index = h5py.h5.INDEX_CRT_ORDER if tracked else h5py.h5.INDEX_NAME
    group.links.iterate(note, idx_type=index, order=h5py.h5.ITER_INC, info=True)
    return found


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _wrapped(opened: Any) -> Any:
    """Return the h5py object of a low-level one; None for what is neither group, dataset nor type."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    if isinstance(opened, h5py.h5d.DatasetID):
        return h5py.Dataset(opened, readonly=True)
    if isinstance(opened, h5py.h5g.GroupID):
        return h5py.Group(opened)
    return h5py.Datatype(opened) if isinstance(opened, h5py.h5t.TypeID) else None


def attribute(item: Any, name: str, default: Any = None) -> Any:
    """Return an attribute of a node or an h5py object, or what to take where it has none."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    key = name.encode()
    if not h5py.h5a.exists(item.id, key):
        return default
    stored = h5py.h5a.open(item.id, key)  # half the time of item.attrs[name]
    value = np.empty(stored.shape or (), dtype=stored.dtype)
    if value.size:
        stored.read(value)
    return value[()]


def scalar(dataset: Any) -> Any:
    """Return the value of a dataset that holds one, in half the time of ``dataset[()]``."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    if not isinstance(dataset, h5py.Dataset) or dataset.shape != ():
        return dataset[()]
    value = np.empty((), dtype=dataset.dtype)
    dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, value)
    return value[()]
