"""Opens pynwb's IO; files that bring no schema of their own share one type map, which pynwb else makes anew for each.

A type map says which class a neurodata type becomes, and remembers how each is built from a file. Making both takes
about as long as reading a small file.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any


class _Shared(threading.local):
    """One type map per thread: filling it is not safe from several."""

    def __init__(self) -> None:
        self.known: tuple[str, ...] = ()
        self.types: Any = None


_SHARED = _Shared()


def open_io(file: Any) -> Any:
    """Return a ``pynwb.NWBHDF5IO`` on an open file, with the schemas that the file brings.

    pynwb loads a cached schema only when no schema of that name is loaded (in whatever version); where all are, loading
    changes nothing, and the type map that other files have used does as well.

    Parameters
    ----------
    file : h5py.File
        Opened for reading.
    """
    import pynwb  # noqa: PLC0415  (only when a file is opened)
    from hdmf.build import BuildManager  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks about cached schemas: they are about software, not about the file
        known = tuple(pynwb.available_namespaces())
        if not set(pynwb.NWBHDF5IO.get_namespaces(file=file)) <= set(known):
            return pynwb.NWBHDF5IO(file=file, mode="r", load_namespaces=True)
        if _SHARED.known != known:  # an extension was loaded since
            _SHARED.known, _SHARED.types = known, pynwb.get_type_map()
        return pynwb.NWBHDF5IO(file=file, mode="r", manager=BuildManager(_SHARED.types))
