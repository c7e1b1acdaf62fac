"""A range of addresses: reserved, filled in part, aligned to huge pages."""

from __future__ import annotations

import mmap

import numpy as np

from neurofm_shards.format.files import HUGE_PAGE
from neurofm_shards.reading.address_range import AddressRange, places


def test_reserved_addresses_take_no_memory():
    address_range = AddressRange(1 << 42)
    address_range.map_memory(1 << 40, 1 << 20)
    address_range.bytes[(1 << 40) + 5] = 7
    assert address_range.bytes[(1 << 40) + 5] == 7
    address_range.drop(1 << 40, (1 << 40) + (1 << 20))
    assert address_range.bytes[(1 << 40) + 5] == 0
    address_range.close()


def test_shards_that_fill_huge_pages_begin_at_one():
    sizes = np.array([5 * HUGE_PAGE + 1, 512, HUGE_PAGE, 7])
    assert (places(sizes) / HUGE_PAGE).tolist() == [0, 6, 7, 8, 9]
    assert places(np.array([10, mmap.PAGESIZE, 1])).tolist() == [0, mmap.PAGESIZE, 2 * mmap.PAGESIZE, 3 * mmap.PAGESIZE]
    assert places(np.zeros(0, np.int64)).tolist() == [0]
    address_range = AddressRange(10)
    assert address_range.bytes.ctypes.data % HUGE_PAGE == 0
    address_range.close()
