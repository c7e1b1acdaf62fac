"""Rows are the same bytes whoever copies them, from wherever they lie."""

import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.reading import row_copy
from neurofm_shards.reading.row_copy import LARGE_ROW, CompiledRows, NumpyRows

compiled = pytest.mark.skipif(not row_copy.COMPILED, reason="this package was built without a compiler")
KINDS = [pytest.param(CompiledRows, marks=compiled), NumpyRows]


def _lying(size, seed=0, count=40):
    """Bytes, and offsets of rows in them: the first and the last possible, some twice, most unaligned."""
    rng = np.random.default_rng(seed)
    everything = rng.integers(0, 256, 3 * size + 20_000).astype(np.uint8)
    offsets = rng.integers(0, len(everything) - size + 1, count)
    offsets[:2], offsets[-3:] = (0, len(everything) - size), offsets[3]
    return everything, offsets


def _expected(everything, offsets, size):
    return b"".join(everything.tobytes()[start : start + size] for start in offsets.tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, 63, 64, 65, 512, 4095, 4096, 4097, 70_001, LARGE_ROW, LARGE_ROW + 3])
def test_rows_are_copied_from_any_address_in_any_order(kind, size):
    everything, offsets = _lying(size)
    out = np.zeros(len(offsets) * size, np.uint8)
    kind(everything).rows_into(offsets, size, out)
    assert out.tobytes() == _expected(everything, offsets, size)
    made = kind(everything).rows(offsets, size, np.dtype(np.uint8), (len(offsets), size))
    assert made.tobytes() == out.tobytes()
    assert made.flags.writeable
    assert made.base is not everything


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<u2", "?", "<c16", "<M8[ns]", "<m8[s]", "S6", "<U3", "<f2"])
def test_rows_come_as_whatever_the_bytes_mean(kind, dtype):
    dtype = np.dtype(dtype)
    everything, offsets = _lying(12 * dtype.itemsize)
    everything &= 1  # any bytes: a boolean of 7 would be none
    found = kind(everything).rows(offsets, 12 * dtype.itemsize, dtype, (len(offsets), 3, 4))
    assert (found.dtype, found.shape) == (dtype, (len(offsets), 3, 4))
    assert found.tobytes() == _expected(everything, offsets, 12 * dtype.itemsize)
    out = np.empty_like(found)
    kind(everything).rows_into(offsets, 12 * dtype.itemsize, out)
    assert out.tobytes() == found.tobytes()


def test_the_module_in_c_is_there_where_it_can_be_built():
    compiler = (sysconfig.get_config_var("CC") or "none").split()[0]
    if shutil.which(compiler) is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("no C compiler here, or no headers of Python")
    assert row_copy.COMPILED, "install the package again: its build says why the module was not compiled"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_few_rows_are_copied_too(kind, count):
    everything, offsets = _lying(100, count=40)
    found = kind(everything).rows(offsets[:count], 100, np.dtype(np.uint8), (count, 100))
    assert found.tobytes() == _expected(everything, offsets[:count], 100)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 100, 5000])
def test_rows_are_found_by_number(kind, size):
    everything, table = _lying(size)
    table[table == 0] = 1
    numbers = np.random.default_rng(1).integers(0, len(table), 60)
    out = np.zeros((60, size), np.uint8)
    assert kind(everything).numbered_rows_into(table, numbers, size, out)
    assert out.tobytes() == _expected(everything, table[numbers], size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("number", "offset"), [(-1, 5), (4, 5), (2**62, 5), (-(2**63), 5), (3, 0), (3, -7)])
def test_numbers_that_are_not_there_and_offsets_of_nothing_copy_nothing(kind, number, offset):
    table, out = np.array([1, 2, 3, offset]), np.zeros(16, np.uint8)
    copy = kind(np.arange(100, dtype=np.uint8))
    assert not copy.numbered_rows_into(table, np.array([0, number]), 8, out)
    assert not out.any()


@compiled
class TestBounds:
    """C reads what it is told to: what would lie outside is refused before anything is written."""

    def test_rows_found_by_number(self):
        copy, out = CompiledRows(np.arange(100, dtype=np.uint8)), np.zeros(16, np.uint8)
        for table, numbers, size, error in (
            (np.array([1, 93]), np.array([0, 1]), 8, IndexError),
            (np.array([1, 2]), np.array([0, 1]), 9, ValueError),
            (np.array([1, 2], np.int32), np.array([0, 1]), 8, TypeError),
            (np.array([1, 2]), np.array([0, 1], np.uint8), 8, TypeError),
        ):
            with pytest.raises(error):
                copy.numbered_rows_into(table, numbers, size, out)
            assert not out.any()

    @staticmethod
    def copy(offsets, size, out):
        CompiledRows(np.arange(100, dtype=np.uint8)).rows_into(offsets, size, out)

    @pytest.mark.parametrize("offset", [-1, 93, 100, 2**62, -(2**63), 2**63 - 1])
    def test_offsets_outside(self, offset):
        out = np.zeros(16, np.uint8)
        with pytest.raises(IndexError, match="8 bytes at"):
            self.copy(np.array([4, offset]), 8, out)
        assert not out.any()

    @pytest.mark.parametrize("size", [0, -1, 7, 9, 101, 2**62])
    def test_sizes_that_do_not_fill_the_output(self, size):
        with pytest.raises(ValueError, match="do not fill 16 bytes"):
            self.copy(np.array([4, 5]), size, np.zeros(16, np.uint8))

    def test_offsets_of_another_type(self):
        with pytest.raises(TypeError, match="64-bit integers"):
            self.copy(np.array([4, 5], np.int32), 8, np.zeros(16, np.uint8))

    def test_arrays_with_gaps_and_those_that_are_read_only(self):
        with pytest.raises((BufferError, ValueError)):
            self.copy(np.array([4, 0, 5, 0])[::2], 8, np.zeros(16, np.uint8))
        with pytest.raises((BufferError, ValueError)):
            self.copy(np.array([4, 5]), 8, np.zeros((16, 2), np.uint8)[:, 0])
        out = np.zeros(16, np.uint8)
        out.flags.writeable = False
        with pytest.raises((BufferError, ValueError)):
            self.copy(np.array([4, 5]), 8, out)

    def test_a_wrong_number_of_arguments(self):
        from neurofm_shards.reading import _rows

        with pytest.raises(TypeError, match="4 arguments"):
            _rows.copy_rows(b"", b"")
        with pytest.raises(TypeError, match="5 arguments"):
            _rows.copy_numbered_rows(b"")
