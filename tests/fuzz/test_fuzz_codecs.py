"""Fuzzing of the codecs and of compressed frames: whatever the bytes, a value or a ``FormatError``, in bounded memory.

A second of processor time each; ``NEUROFM_SHARDS_FUZZ_SECONDS`` sets another duration for each target. Payloads are
mutated from valid and hostile ones; the number of executions and what they led to is printed (``pytest -s``).
"""

from __future__ import annotations

import contextlib
import json
import pickle
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.codecs.json import JsonCodec
from neurofm_shards.codecs.npy import NpyCodec
from neurofm_shards.codecs.pyd import PydCodec
from neurofm_shards.compression.bz2 import Bz2Compression
from neurofm_shards.compression.gz import GzCompression
from neurofm_shards.compression.xz import XzCompression
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.interfaces import Codec, Compression
from neurofm_shards.testing.comparing import same

sys.path.insert(0, str(Path(__file__).parent))
from fuzz_engine import Target, fuzz, mutated

HOSTILE = runpy.run_path(str(Path(__file__).parents[1] / "hostile" / "pickles" / "corpus.py"))["HOSTILE"]


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    return [
        rng.normal(size=(4, 3)), rng.poisson(1, (2, 3, 2)).astype("u1"), np.zeros((0, 2), ">i4"), np.array(1.5, "f4"),
        np.asfortranarray(rng.normal(size=(3, 2)).astype("c8")), np.ones(300, bool),
    ]  # fmt: skip


def joined(codec: Codec, value: Any) -> bytes:
    return b"".join(bytes(part) for part in codec.encode(value))


def pickles() -> list[bytes]:
    plain = [{"a": [1, 2.5, None, True], "b": "text", "c": (b"raw", np.float32(2))}, [[1], [2, [3]]]]
    valid = [joined(PydCodec(), array) for array in arrays()]
    valid += [pickle.dumps(value, protocol) for value in [*arrays(), *plain] for protocol in (2, 3, 4, 5)]
    namespace = runpy.run_path(str(Path(__file__).parents[1] / "hostile" / "pickles" / "corpus.py"))
    valid.append(namespace["tensor"](namespace["FLOATS"], 0, namespace["numbers"](2, 2), namespace["numbers"](2, 1)))
    return valid + [payload for payload in HOSTILE.values() if len(payload) < 2000]


def fuzzed(name: str, corpus: list[bytes], run: Callable[[bytes], object]) -> Counter[str]:
    """Run on mutations of a corpus; nothing but ``FormatError`` may be raised."""
    outcomes = fuzz(Target(name, corpus, run, mutated))
    assert set(outcomes) <= {"values", "FormatError", "UnsafePickleError"}
    return outcomes


def decode_and_layout(codec: Codec) -> Callable[[bytes], object]:
    """Decode; where there is a layout it must describe just what was decoded."""

    def run(payload: bytes) -> object:
        view = memoryview(payload)
        layout = codec.layout(view, len(payload))
        value = codec.decode(view)
        if layout is not None:
            count = int(np.prod(layout.shape, dtype=np.int64))
            seen = np.frombuffer(payload, layout.dtype, count, layout.offset)
            assert same(value, seen.reshape(layout.shape, order="F" if layout.fortran else "C"))
        return value

    return run


def refused_without_layout(codec: Codec) -> Callable[[bytes], object]:
    """As above, and what decode refuses has no layout."""
    run = decode_and_layout(codec)

    def check(payload: bytes) -> object:
        try:
            return run(payload)
        except FormatError:
            if codec.layout(memoryview(payload), len(payload)) is not None:
                raise AssertionError("a layout for what decode refuses") from None
            raise

    return check


def test_pickles() -> None:
    outcomes = fuzzed("pyd", pickles(), refused_without_layout(PydCodec()))
    assert outcomes["values"]
    assert outcomes["UnsafePickleError"]


def test_npy() -> None:
    assert fuzzed("npy", [joined(NpyCodec(), array) for array in arrays()], refused_without_layout(NpyCodec()))[
        "values"
    ]


def test_json() -> None:
    values = [
        {"a": [1, 2.5, None, True], "b": "é\\u00e9", "c": {"d": []}},
        [1e300, -0.0, 2**63],
        "x",
        {"n": float("nan")},
    ]
    corpus = [json.dumps(value).encode() for value in values]
    assert fuzzed("json", corpus, lambda data: JsonCodec().decode(memoryview(data)))["FormatError"]


@pytest.mark.parametrize("compression", [GzCompression(), XzCompression(), Bz2Compression()], ids=lambda c: c.name)
def test_frames(compression: Compression) -> None:
    raw = [np.random.default_rng(1).poisson(0.3, 4000).astype("u1").tobytes(), bytes(20_000), b"spikes" * 700]
    corpus = []
    for part in raw:
        assembler = compression.assembler()
        start, middle = assembler.start(), assembler.add(part, compression.compress_frame(part))
        corpus.append(middle if compression.random_access else start + middle + assembler.finish())
    out = bytearray(4000)
    fuzzed(compression.name, corpus, lambda data: compression.decompress_frame(memoryview(data), memoryview(out)))


@pytest.mark.parametrize("codec", [PydCodec(), NpyCodec(), JsonCodec()], ids=lambda c: c.name)
@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=300))
def test_any_bytes(codec: Codec, payload: bytes) -> None:
    for data in (payload, b"\x80\x04" + payload, b"\x93NUMPY\x01\x00" + payload):
        with contextlib.suppress(FormatError):
            codec.decode(memoryview(data))
