"""The hash that assigns groups to splits never changes: old data sets would be divided anew."""

import pytest
import xxhash

from neurofm_shards.loading.splits import split
from neurofm_shards.recordings.group_splits import group_hash, split_of

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


@pytest.mark.parametrize(
    ("identity", "seed", "expected"),
    [("s1", 0, 15694857279401176285), ("sub-01_ses-02", 42, 702712826101850071), ("Maus ä", 7, 2991661958501577685)],
)
def test_hashes_are_what_they_were(identity, seed, expected):
    assert group_hash(identity, seed) == expected
    assert expected == int.from_bytes(xxhash.xxh3_64_digest(str(seed).encode() + b"\0" + identity.encode()), "big")


def test_conversion_and_loading_assign_alike():
    sessions = [f"s{i}" for i in range(200)]
    rows = split({"session_id": sessions}, seed=3, balanced=False).rows
    for name, found in rows.items():
        assert {split_of(sessions[i], FRACTIONS, 3) for i in found} == {name}


def test_splits_are_what_they_were():
    assert (
        "".join(split_of(f"s{i}", FRACTIONS, 0)[0] + split_of(f"s{i}", FRACTIONS, 1)[1] for i in range(24))
        == "trvrtatrtatrtatatrtevavrvetrtrtrtrtrtrtrtrvrtetr"
    )
