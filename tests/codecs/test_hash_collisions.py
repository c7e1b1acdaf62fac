"""Keys whose hashes are equal, or whose places in a dict are, cost no more than anything else."""

from __future__ import annotations

import pickle
import time

import pytest

from neurofm_shards.codecs.pyd import PydCodec
from neurofm_shards.errors import UnsafePickleError

MODULUS = (1 << 61) - 1  # Python's hash of a whole number is the number modulo this


def decode(value, protocol=5):
    return PydCodec().decode(memoryview(pickle.dumps(value, protocol)))


def items(keys):
    """A pickle of a dict with these keys, made without the dict."""
    parts = [b"\x80\x02}("]
    for key in keys:
        if isinstance(key, float):
            parts.append(pickle.dumps(key, 2)[2:-1] + b"N")
        else:
            raw = key.to_bytes(key.bit_length() // 8 + 1, "little", signed=True)
            parts.append(b"\x8a" + bytes([len(raw)]) + raw + b"N")
    return b"".join([*parts, b"u."])


ATTACKS = {
    "equal hashes": lambda count: [i * MODULUS for i in range(1, count + 1)],
    "equal hashes, negative": lambda count: [-i * MODULUS for i in range(1, count + 1)],
    "equal places": lambda count: [i << 40 for i in range(1, count + 1)],
    "numbers and fractions": lambda count: [float(i * 2**61) for i in range(1, count + 1)],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_dict_of_colliding_numbers_is_bounded(attack):
    payload = items(ATTACKS[attack](140_000))
    start = time.process_time()
    with pytest.raises(UnsafePickleError, match="operations"):
        PydCodec().decode(memoryview(payload))
    assert time.process_time() - start < 60  # of processor time; it took 298 s


def test_colliding_numbers_that_are_shared_are_paid_for_each_time():
    inner = items(ATTACKS["equal hashes"](3_000))[2:-1]
    payload = b"\x80\x02" + inner + b"q\x000](" + b"h\x00" * 200 + b"e."
    with pytest.raises(UnsafePickleError, match="operations"):
        PydCodec().decode(memoryview(payload))


def test_dicts_of_ordinary_size_are_read():
    by_unit = {number: [number, number / 2] for number in range(2_000)}
    by_name = {f"unit {number}": number for number in range(50_000)}
    assert decode(by_unit) == by_unit
    assert decode(by_name) == by_name
    assert decode({0.5: 1, None: 2, True: 3, "x": 4}) == {0.5: 1, None: 2, True: 3, "x": 4}


def test_values_are_stored_under_small_numbers_only():
    with pytest.raises(UnsafePickleError, match="under the number"):
        PydCodec().decode(memoryview(b"\x80\x02K\x01r\xff\xff\xff\x7f."))
