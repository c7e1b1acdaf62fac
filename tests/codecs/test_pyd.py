"""``.pyd``: a plain pickle that everybody loads, and everybody's pickles."""

from __future__ import annotations

import io
import pickle
import pickletools
import subprocess
import sys

import hypothesis.extra.numpy as arrays_of
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.codecs.pyd import PydCodec
from neurofm_shards.errors import EncodeError, FormatError, UnsafePickleError
from neurofm_shards.testing.comparing import same

CODEC = PydCodec()
DTYPES = st.one_of(
    arrays_of.boolean_dtypes(),
    arrays_of.integer_dtypes(endianness="?"),
    arrays_of.unsigned_integer_dtypes(endianness="?"),
    arrays_of.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    arrays_of.complex_number_dtypes(endianness="?", sizes=(64, 128)),
)
ARRAYS = arrays_of.arrays(DTYPES, arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))


def encoded(value: object) -> bytes:
    return b"".join(bytes(part) for part in CODEC.encode(value))


def seen_through(layout: object, payload: bytes) -> np.ndarray:
    count = int(np.prod(layout.shape, dtype=np.int64))
    flat = np.frombuffer(payload, layout.dtype, count, layout.offset)
    return flat.reshape(layout.shape, order="F" if layout.fortran else "C")


def as_numpy_1_writes(payload: bytes) -> bytes:
    """Rename the modules, whose names carry their length from protocol 4 on, and drop the only frame."""
    if payload[2:3] == b"\x95":
        payload = payload[:2] + payload[11:]
    for module in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + module, b"numpy.core." + module
        payload = payload.replace(bytes([len(new)]) + new, bytes([len(old)]) + old).replace(b"c" + new, b"c" + old)
    return payload


@given(ARRAYS)
def test_plain_pickle_loads_gives_the_array_writeable(array: np.ndarray) -> None:
    loaded = pickle.loads(encoded(array))
    assert same(loaded, np.asarray(array, order="C"))
    assert loaded.flags.writeable


@given(ARRAYS)
def test_decode_gives_the_array_new_and_writeable(array: np.ndarray) -> None:
    payload = bytearray(encoded(array))
    loaded = CODEC.decode(memoryview(payload))
    assert same(loaded, np.asarray(array, order="C"))
    assert loaded.flags.writeable
    assert not np.shares_memory(loaded, np.frombuffer(payload, np.uint8))


@given(ARRAYS)
def test_envelope_and_layout_describe_the_payload(array: np.ndarray) -> None:
    payload = encoded(array)
    prefix, suffix = CODEC.envelope(array.dtype.str, array.shape)
    assert prefix + array.tobytes() + suffix == payload
    layout = CODEC.layout(memoryview(payload)[:512], len(payload))
    assert layout is not None
    assert same(seen_through(layout, payload), np.asarray(array, order="C"))


@settings(max_examples=200)
@given(ARRAYS, st.integers(2, 5), st.sampled_from(["C", "F", "T"]), st.booleans())
def test_ordinary_pickles_of_arrays_are_read(array: np.ndarray, protocol: int, order: str, old: bool) -> None:
    array = array.T if order == "T" else np.asarray(array, order=order)
    payload = pickle.dumps(array, protocol)
    if old:
        payload = as_numpy_1_writes(payload)
    assert same(CODEC.decode(memoryview(payload)), array)
    layout = CODEC.layout(memoryview(payload), len(payload))
    if layout is not None:
        assert same(seen_through(layout, payload), array)
    elif array.ndim and (array.flags.c_contiguous or array.flags.f_contiguous):
        assert protocol == 2, "an array that lies contiguous in its payload must have a layout"


def test_a_foreign_pickle_has_no_layout_until_its_end_is_seen() -> None:
    payload = pickle.dumps(np.arange(1000.0), 4)
    assert CODEC.layout(memoryview(payload)[:512], len(payload)) is None
    assert CODEC.layout(memoryview(payload), len(payload)) is not None


def test_webdataset_writes_what_is_read(tmp_path) -> None:
    webdataset = pytest.importorskip("webdataset")
    array = np.random.default_rng(1).normal(size=(20, 3)).astype("f4")
    payload = webdataset.writer.make_handlers()["pyd"](array)
    assert same(CODEC.decode(memoryview(payload)), array)


def test_the_pickle_is_plain() -> None:
    operations = [(op.name, arg) for op, arg, _ in pickletools.genops(encoded(np.zeros((100, 96))))]
    assert [name for name, _ in operations] == (
        [
            "PROTO",
            "GLOBAL",
            "BININT1",
            "BININT1",
            "TUPLE2",
            "SHORT_BINUNICODE",
            "BYTEARRAY8",
            "TUPLE3",
            "REDUCE",
            "STOP",
        ]
    )
    assert operations[1][1] == "numpy ndarray"
    assert operations[5][1] == "<f8"


@pytest.mark.parametrize("shape", [(255,), (256,), (65535, 0), (65536, 0), (2**31 - 1, 0), (2**31, 0), (2**40, 0)])
def test_every_width_of_integer_is_canonical(shape: tuple[int, ...]) -> None:
    prefix, suffix = CODEC.envelope("|u1", shape)
    payload = prefix + bytes(int(np.prod(shape))) + suffix
    assert pickle.loads(payload).shape == shape
    assert CODEC.decode(memoryview(payload)).shape == shape
    layout = CODEC.layout(memoryview(payload)[:512], len(payload))
    assert layout is not None
    assert layout.shape == shape


def test_a_changed_end_is_no_longer_an_array() -> None:
    payload = encoded(np.arange(300.0))
    changed = payload[:-3] + b"\x87N."
    assert CODEC.layout(memoryview(changed), len(changed)) is None
    with pytest.raises(FormatError):
        CODEC.decode(memoryview(changed))


def test_every_cut_is_noticed() -> None:
    for payload in (encoded(np.arange(9.0)), pickle.dumps(np.arange(9.0), 4), pickle.dumps(np.arange(9.0), 5)):
        for size in range(len(payload)):
            with pytest.raises(FormatError):
                CODEC.decode(memoryview(payload)[:size])
            assert CODEC.layout(memoryview(payload)[:size], size) is None
        with pytest.raises(FormatError):
            CODEC.decode(memoryview(payload + b"\x00"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4) | st.tuples(inner)
        ),
        max_leaves=20,
    ),
    st.integers(3, 5),
)
def test_plain_python_values_are_read(value: object, protocol: int) -> None:
    payload = pickle.dumps(value, protocol)
    assert same(CODEC.decode(memoryview(payload)), value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_scalars_and_arrays_inside_containers_are_read(protocol: int) -> None:
    value = {"rate": np.float32(1.5), "parts": [np.arange(3), (np.bool_(1), np.ones((2, 2), ">i4"))], "note": "é"}
    assert same(CODEC.decode(memoryview(pickle.dumps(value, protocol))), value)


def test_tensors_become_arrays() -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    for tensor in (
        base, base.T, base[1:3, ::2], base[0, 0], base.to(torch.int16), base > 3, base.to(torch.complex64),
        base.to(torch.float16), torch.nn.Parameter(base), base[:0], torch.ones(3, dtype=torch.uint16),
    ):  # fmt: skip
        wanted = tensor.detach().numpy()
        assert same(np.asarray(CODEC.decode(memoryview(pickle.dumps(tensor)))), wanted)
        assert same(CODEC.decode(memoryview(encoded(tensor))), np.asarray(wanted, order="C"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint8", "float16"])
def test_tensors_of_every_protocol_are_read(protocol: int, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    whole = torch.arange(12).reshape(3, 4).to(getattr(torch, dtype))
    value = {"whole": whole, "parts": [whole.T, whole[1:], whole[:0]]}
    found = CODEC.decode(memoryview(pickle.dumps(value, protocol)))
    assert same(np.asarray(found["whole"]), whole.numpy())
    for part, expected in zip(found["parts"], value["parts"], strict=True):
        assert np.array_equal(np.asarray(part), expected.numpy())


def test_a_storage_in_text_that_is_read_over_and_over_is_refused() -> None:
    torch = pytest.importorskip("torch")
    stored = io.BytesIO()
    torch.save(torch.zeros(20_000, dtype=torch.uint8).untyped_storage(), stored, _use_new_zipfile_serialization=False)
    text = stored.getvalue().decode("latin1").encode()
    encoded = b"c_codecs\nencode\nX" + len(text).to_bytes(4, "little") + text + b"X\x06\x00\x00\x00latin1\x86Rq\x010"
    again = b"h\x00h\x01\x85R" * 20_000
    payload = b"\x80\x02ctorch.storage\n_load_from_bytes\nq\x000" + encoded + b"(" + again + b"l."
    with pytest.raises(UnsafePickleError, match="more bytes than twice its own size"):
        CODEC.decode(memoryview(payload))


def test_bfloat16_tensors_are_widened_when_read_and_refused_when_written() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1.5, -2.0, 3e38, 1e-40], dtype=torch.bfloat16)
    loaded = CODEC.decode(memoryview(pickle.dumps(tensor)))
    assert same(loaded, tensor.float().numpy())
    with pytest.raises(EncodeError, match="float"):
        CODEC.encode(tensor)


def test_reading_a_pickled_tensor_does_not_import_torch(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "tensor.pyd").write_bytes(pickle.dumps(torch.arange(3.0)))
    code = (
        "import sys; from neurofm_shards.codecs.pyd import PydCodec\n"
        f"payload = open({str(tmp_path / 'tensor.pyd')!r}, 'rb').read()\n"
        "print(PydCodec().decode(memoryview(payload)), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split("\n")[0] == "[0. 1. 2.] False"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (np.array([None]), "JSON"),
        (np.array(["a"]), "list of strings"),
        (np.array([b"a"]), "uint8"),
        (np.zeros(2, "M8[s]"), "float64"),
        (np.zeros(2, [("x", "f8")]), "field"),
        (np.zeros(2, np.longdouble), "float64"),
        (np.ma.masked_array([1, 2], [True, False]), "mask"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_a_way_out(value: object, hint: str) -> None:
    assert CODEC.accepts(value)
    with pytest.raises(EncodeError, match=hint):
        CODEC.encode(value)


def test_values_that_are_no_arrays_are_not_accepted() -> None:
    assert not any(map(CODEC.accepts, (1, 1.0, "a", None, [1], {"a": 1}, np.ndarray)))
    assert all(map(CODEC.accepts, (np.zeros(2), np.float64(1), np.int8(1))))


def test_the_refusal_names_the_global() -> None:
    with pytest.raises(UnsafePickleError, match=r"pathlib(\._local)?\.P"):
        CODEC.decode(memoryview(pickle.dumps(__import__("pathlib").PurePosixPath("x"))))


def test_a_shape_that_does_not_fit_its_bytes_has_no_layout() -> None:
    prefix, suffix = CODEC.envelope("<f8", (3,))
    lying = prefix.replace(b"K\x03\x85", b"K\x04\x85") + bytes(24) + suffix
    assert CODEC.layout(memoryview(lying)[:512], len(lying)) is None
    with pytest.raises(FormatError, match="24 bytes"):
        CODEC.decode(memoryview(lying))
