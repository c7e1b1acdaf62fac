"""Where what was found out about windows is kept: beside the data, or in the user's cache if that cannot be written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurofm_shards.errors import FormatError
from neurofm_shards.format.files import SIDECAR_DIR
from neurofm_shards.format.index_io import cache_folder
from neurofm_shards.format.sidecar import Arrays, read_arrays, write_arrays

_FOLDER = "windows"


class Kept:
    """One thing that was found out, and can be found again.

    Parameters
    ----------
    folder : path
        The data set.
    mark : str
        Identity of the windows it belongs to.
    what : str
        Kind of thing; the end of the file's name.
    """

    def __init__(self, folder: Path, mark: str, what: str) -> None:
        self._mark = {"kind": f"windows {what}", "mark": mark}
        self._places = [top / _FOLDER / f"{mark}.{what}" for top in (folder / SIDECAR_DIR, cache_folder())]

    def read(self) -> tuple[dict[str, Any], Arrays] | None:
        """Return what was kept; None where there is nothing, or it is damaged: it is found anew then."""
        for place in self._places:
            if not os.path.exists(place):  # noqa: PTH110  (Path raises where a folder above may not be searched)
                continue
            try:
                header, arrays = read_arrays(place)
            except (OSError, FormatError):
                continue
            if self._mark.items() <= header.items():
                return header, arrays
        return None

    def write(self, header: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep it in the first place that can be written; nowhere, it is found again each time."""
        for place in self._places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                write_arrays(place, {**header, **self._mark}, arrays)
            except OSError:
                continue
            return
