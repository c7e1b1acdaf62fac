"""Headers against the standard library's."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from neurofm_shards.errors import ConfigError
from neurofm_shards.format.headers import MemberHeaders, decimal_digits, header_bytes
from neurofm_shards.limits import MAX_MEMBER_BYTES


def reference(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
    # tarfile leaves the device numbers of plain files to the release; zero them both ways, and sum again.
    block[329:345] = b"0000000\x000000000\x00"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\x00 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 78_400, MAX_MEMBER_BYTES])
def test_a_header_is_the_one_tarfile_writes(size):
    assert header_bytes("sample_000000001.spikes.pyd", size) == reference("sample_000000001.spikes.pyd", size)


def test_many_headers_are_those_made_one_by_one():
    numbers = np.array([1, 9, 10, 999_999_999, 123_456_789])
    keys = np.concatenate([np.tile(np.frombuffer(b"sample_", np.uint8), (5, 1)), decimal_digits(numbers, 9)], axis=1)
    sizes = np.array([0, 1, 511, 78_400, MAX_MEMBER_BYTES])
    same, each = MemberHeaders("lfp", "npy").many(keys, 4321), MemberHeaders("lfp", "npy").many(keys, sizes)
    for i, number in enumerate(numbers):
        assert same[i].tobytes() == reference(f"sample_{number:09d}.lfp.npy", 4321)
        assert each[i].tobytes() == reference(f"sample_{number:09d}.lfp.npy", int(sizes[i]))


@pytest.mark.parametrize(("name", "size"), [("k" * 101, 1), ("", 1), ("é.x.npy", 1), ("k.x.npy", MAX_MEMBER_BYTES + 1)])
def test_what_ustar_cannot_say_is_refused(name, size):
    with pytest.raises(ConfigError):
        header_bytes(name, size)
