"""``.npy``: the bytes of ``numpy.save``, read without evaluating anything."""

from __future__ import annotations

import io

import hypothesis.extra.numpy as arrays_of
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.codecs.npy import NpyCodec
from neurofm_shards.errors import EncodeError, FormatError
from neurofm_shards.testing.comparing import same

CODEC = NpyCodec()
DTYPES = st.one_of(
    arrays_of.boolean_dtypes(),
    arrays_of.integer_dtypes(endianness="?"),
    arrays_of.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    arrays_of.complex_number_dtypes(endianness="?", sizes=(64, 128)),
)
ARRAYS = arrays_of.arrays(DTYPES, arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=False)
    return file.getvalue()


def payload_of(header: str, data: bytes = bytes(24), version: bytes = b"\x01\x00") -> memoryview:
    text = header.encode("latin1") + b"\n"
    width = 2 if version == b"\x01\x00" else 4
    return memoryview(b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text + data)


@given(ARRAYS)
def test_the_bytes_are_those_of_numpy_save(array: np.ndarray) -> None:
    ordered = np.asarray(array, order="C")
    payload = b"".join(CODEC.encode(array))
    assert payload == saved(ordered)
    prefix, suffix = CODEC.envelope(array.dtype.str, array.shape)
    assert prefix + ordered.tobytes() + suffix == payload


@pytest.mark.parametrize("dimensions", range(1, 30))
@pytest.mark.parametrize("first", [1, 10, 123_456_789, 10**14])
def test_the_room_for_growth_is_that_of_numpy_save(dimensions: int, first: int) -> None:
    array = np.empty((first,) + (0,) * dimensions, "u1")
    assert b"".join(CODEC.encode(array)) == saved(array)


@given(ARRAYS, st.sampled_from([(1, 0), (2, 0), (3, 0)]), st.booleans())
@pytest.mark.filterwarnings("ignore:Stored array in format")
def test_whatever_numpy_writes_is_read(array: np.ndarray, version: tuple[int, int], fortran: bool) -> None:
    array = np.asarray(array, order="F" if fortran else "C")
    payload = saved(array, version)
    loaded = CODEC.decode(memoryview(payload))
    assert same(loaded, array)
    assert loaded.flags.writeable
    layout = CODEC.layout(memoryview(payload)[:512], len(payload))
    assert layout is not None
    flat = np.frombuffer(payload, layout.dtype, array.size, layout.offset)
    assert same(flat.reshape(layout.shape, order="F" if layout.fortran else "C"), array)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}",
        "{'shape': (3L,), 'descr': '<f8', 'fortran_order': False, }",
        "{ 'descr' : '<f8' , 'fortran_order' : False , 'shape' : ( 3 , ) }   ",
    ],
)
def test_old_spellings_of_the_header_are_read(header: str) -> None:
    assert CODEC.decode(payload_of(header)).shape == (3,)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-3,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': 3}",
        "{'descr': '<f8', 'fortran_order': False}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), 'more': 1}",
        "{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f8', 'fortran_order': '<f8', 'shape': (3,)}",
        "{'descr': True, 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 33 + ")}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (__import__('os').getpid(),)}",
        "(" * 5000,
        "-" * 9000 + "1",
        "[" * 9000,
        "",
        "{",
        "{}",
        "x" * 20000,
    ],
)
def test_other_headers_are_refused(header: str) -> None:
    for version in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        payload = payload_of(header, version=version)
        with pytest.raises(FormatError):
            CODEC.decode(payload)
        assert CODEC.layout(payload[:512], len(payload)) is None


def test_unknown_versions_cuts_and_extra_bytes_are_refused() -> None:
    payload = saved(np.arange(5.0))
    for wrong in (
        b"\x93NUMPY\x04\x00" + payload[8:],
        b"PK" + payload,
        payload + b"x",
        b"\x93NUMPY\x02\x00" + b"\xff" * 200,
    ):
        with pytest.raises(FormatError):
            CODEC.decode(memoryview(wrong))
    for size in range(len(payload)):
        with pytest.raises(FormatError):
            CODEC.decode(memoryview(payload)[:size])


def test_an_array_of_objects_is_refused_both_ways() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(FormatError, match="plain number"):
        CODEC.decode(memoryview(file.getvalue()))
    with pytest.raises(EncodeError, match="JSON"):
        CODEC.encode(np.array([{"a": 1}]))
