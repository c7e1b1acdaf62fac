"""All cases by name, and where their digests are stored."""

from __future__ import annotations

import os
from pathlib import Path

from golden_arrays import array_cases
from golden_conversions import conversion_cases
from golden_loading import loading_cases, write_large, write_small

DIGESTS = Path(__file__).with_name("digests.json")


def write_data_sets(scratch):
    """Write the data sets that orders are made of."""
    return {
        "small": write_small(scratch / "small"),
        "other": write_small(scratch / "other", 90, 20),
        "large": write_large(scratch / "large"),
    }


def all_cases(shared, folders):
    """Return all cases by name: a function of an empty folder that returns digests."""
    parts = [conversion_cases(shared), array_cases(), loading_cases(shared, folders)]
    cases = {name: make for part in parts for name, make in part.items()}
    if len(cases) < sum(map(len, parts)):
        raise ValueError("two cases have one name")
    return cases


def shared_folder():
    """Return the folder that holds ``data`` and ``faults``."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("NEUROFM_SHARDS_DATA", default)).parent


def differing(stored, found):
    """Return the names of entries that differ; what another version of a library compressed may differ."""
    if stored.get("library") != found.get("library"):
        return {"tar inside"} & {name for name in stored if stored[name] != found.get(name)}
    return {name for name in {*stored, *found} if stored.get(name) != found.get(name)}
