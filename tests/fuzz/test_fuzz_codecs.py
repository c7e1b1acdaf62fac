"""Fuzzing of the codecs and of compressed frames: whatever the bytes, a value or a ``FormatError``, in bounded memory.

A second each by default; ``NEUROFM_SHARDS_FUZZ_SECONDS`` sets another duration for each target. Payloads are mutated
from valid and hostile ones; the number of executions and what they led to is printed (``pytest -s``).
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import runpy
import time
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

SECONDS = float(os.environ.get("NEUROFM_SHARDS_FUZZ_SECONDS", "1"))
#: Most memory any run may add, in bytes.
MEMORY = 400 << 20
HOSTILE = runpy.run_path(str(Path(__file__).parents[1] / "hostile" / "pickles" / "corpus.py"))["HOSTILE"]
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, *b"(.0NRbtcq\x94\x93\x85\x86\x87\x95\x96\x8a\x8c'{}[],:\"<>|f8"]


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


def mutated(payload: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """Change a payload: bytes, lengths, pieces cut, doubled, or taken from another payload."""
    data = bytearray(payload)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(data) + 1))
        size = int(rng.integers(1, 16))
        kind = int(rng.integers(0, 7))
        if kind == 0 and at < len(data):
            data[at] = int(rng.integers(0, 256))
        elif kind == 1 and at < len(data):
            data[at] = int(rng.choice(INTERESTING))
        elif kind == 2 and at < len(data):
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = data[at : at + size]
        elif kind == 5:
            other = others[int(rng.integers(0, len(others)))]
            start = int(rng.integers(0, len(other) + 1))
            data[at : at + size] = other[start : start + size]
        else:
            data[at : at + 8] = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**60, 2**63 - 1])).to_bytes(8, "little")
    return bytes(data)


def fuzz(name: str, corpus: list[bytes], target: Callable[[bytes], object]) -> Counter[str]:
    """Run ``target`` on mutations until time is up; anything but ``FormatError`` fails with the payload shown."""
    seed = int(os.environ.get("NEUROFM_SHARDS_FUZZ_SEED", "0"))
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    end = time.monotonic() + SECONDS
    slowest = 0.0
    while time.monotonic() < end:
        payload = mutated(corpus[int(rng.integers(0, len(corpus)))], corpus, rng)
        started = time.process_time()
        try:
            target(payload)
            outcomes["values"] += 1
        except FormatError as error:
            outcomes[type(error).__name__] += 1
            problem = str(error)
            outcomes["unhelpful"] += not 5 < len(problem) < 500
        except BaseException:
            print(f"{name}: {payload!r}")
            raise
        slowest = max(slowest, time.process_time() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    print(
        f"\n{name}: {outcomes.total()} executions, {dict(outcomes)}, slowest {slowest:.3f} s, memory +{grown >> 20} MiB"
    )
    assert not outcomes["unhelpful"], "an error without a message, or with an endless one"
    assert grown < MEMORY
    assert slowest < 10
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
    outcomes = fuzz("pyd", pickles(), refused_without_layout(PydCodec()))
    assert outcomes["values"]
    assert outcomes["UnsafePickleError"]


def test_npy() -> None:
    assert fuzz("npy", [joined(NpyCodec(), array) for array in arrays()], refused_without_layout(NpyCodec()))["values"]


def test_json() -> None:
    values = [
        {"a": [1, 2.5, None, True], "b": "é\\u00e9", "c": {"d": []}},
        [1e300, -0.0, 2**63],
        "x",
        {"n": float("nan")},
    ]
    corpus = [json.dumps(value).encode() for value in values]
    assert fuzz("json", corpus, lambda data: JsonCodec().decode(memoryview(data)))["FormatError"]


@pytest.mark.parametrize("compression", [GzCompression(), XzCompression(), Bz2Compression()], ids=lambda c: c.name)
def test_frames(compression: Compression) -> None:
    raw = [np.random.default_rng(1).poisson(0.3, 4000).astype("u1").tobytes(), bytes(20_000), b"spikes" * 700]
    corpus = []
    for part in raw:
        assembler = compression.assembler()
        start, middle = assembler.start(), assembler.add(part, compression.compress_frame(part))
        corpus.append(middle if compression.random_access else start + middle + assembler.finish())
    out = bytearray(4000)
    fuzz(compression.name, corpus, lambda data: compression.decompress_frame(memoryview(data), memoryview(out)))


@pytest.mark.parametrize("codec", [PydCodec(), NpyCodec(), JsonCodec()], ids=lambda c: c.name)
@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=300))
def test_any_bytes(codec: Codec, payload: bytes) -> None:
    for data in (payload, b"\x80\x04" + payload, b"\x93NUMPY\x01\x00" + payload):
        with contextlib.suppress(FormatError):
            codec.decode(memoryview(data))
