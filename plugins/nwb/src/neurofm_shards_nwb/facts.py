"""What a file says of its session as a whole: who recorded what, where and why, and what to cite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neurofm_shards_nwb.content import text

_SUBJECT = ("subject_id", "species", "sex", "age", "genotype", "strain")
_GENERAL = (
    "institution", "lab", "experimenter", "related_publications", "keywords", "experiment_description", "protocol",
    "notes", "data_collection", "source_script",
)  # fmt: skip
#: The group in which NWB 1 and 2 keep each fact.
PLACES: Mapping[str, str] = {
    "identifier": "",
    "session_id": "general",
    "session_description": "",
    **dict.fromkeys(_GENERAL, "general"),
    **dict.fromkeys(_SUBJECT, "general/subject"),
    "session_start_time": "",
}
#: Facts that NWB 2 keeps as lists of texts; older files have one text.
_LISTED = frozenset({"experimenter", "related_publications", "keywords"})


def facts_of(stored: Mapping[str, object]) -> dict[str, Any]:
    """Return stored facts as JSON values, those that are not empty: texts, and lists of texts where several may be.

    Parameters
    ----------
    stored : mapping of str to object
        Values as h5py, Zarr or pynwb give them: text or bytes, or arrays of them; None where there is none.
    """
    said = {name: _texts(value) if name in _LISTED else text(value) for name, value in stored.items()}
    return {name: value for name, value in said.items() if value}


def _texts(value: object) -> list[str]:
    return [said for part in np.asarray(value, dtype=object).ravel() if (said := text(part))]
