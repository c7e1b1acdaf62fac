"""What every fuzzing target shares: mutations, a loop that is bounded in time and memory, and a kept corpus."""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofm_shards.errors import NeurofmShardsError

SECONDS = float(os.environ.get("NEUROFM_SHARDS_FUZZ_SECONDS", "1"))
#: Most memory any run may add, in bytes.
MEMORY = 400 << 20
#: Longest processor time one input may take, in seconds.
SLOWEST = 10
#: Inputs that once broke something, one folder per target; each is run first.
CORPUS = Path(__file__).parent / "corpus"
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, *b"(.0NRbtcq\x94\x93\x85\x86\x87\x95\x96\x8a\x8c'{}[],:\"<>|f8"]
NUMBERS = [0, 1, -1, 2, 7, 512, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 53, 1 << 62, (1 << 63) - 1, -(1 << 63)]
LEAVES: list[Any] = [
    *NUMBERS,
    None,
    True,
    False,
    "",
    "a",
    "../../x",
    "/etc/passwd",
    "\x00",
    "é" * 9,
    0.5,
    1e300,
    [],
    {},
]

Mutation = Callable[[bytes, Sequence[bytes], np.random.Generator], bytes]


@dataclass(frozen=True)
class Target:
    """Something that takes bytes from outside.

    Attributes
    ----------
    name : str
        Also the folder of its corpus.
    seeds : sequence of bytes
        Sound and hostile inputs to start from.
    run : callable
        Takes an input; returns whatever it makes of it, or raises an error of ours; asserts what must hold.
    mutate : callable
        Makes a new input; one that knows the format puts checksums right again, so that what is behind them is tried.
    """

    name: str
    seeds: Sequence[bytes]
    run: Callable[[bytes], object]
    mutate: Mutation

    def inputs(self) -> list[bytes]:
        """Return what was kept of earlier runs."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]


def mutated(payload: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
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


def mutated_value(value: Any, rng: np.random.Generator) -> Any:
    """Change JSON values somewhere inside: other leaves, entries gone, doubled or nested."""
    if isinstance(value, (list, dict)) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[int(rng.integers(0, len(keys)))]
        changed = dict(value) if isinstance(value, dict) else list(value)
        action = rng.random()
        if action < 0.06:
            del changed[key]
        elif action < 0.1 and isinstance(changed, list):
            changed.append(changed[key])
        elif action < 0.13 and isinstance(changed, dict):
            changed[str(rng.choice(["x", "kind", "__class__", ""]))] = changed[key]
        else:
            changed[key] = mutated_value(value[key], rng)
        return changed
    if type(value) is int and rng.random() < 0.4:
        return value + int(rng.choice([-513, -512, -1, 1, 511, 512]))
    if isinstance(value, str) and value and rng.random() < 0.3:
        return mutated(value.encode(), [b"x"], rng).decode("utf-8", "replace")
    return LEAVES[int(rng.integers(0, len(LEAVES)))] if rng.random() < 0.9 else [value, value]


def mutated_json(payload: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change a JSON text by its values mostly, sometimes by its bytes."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return mutated(payload, others, rng)
    if rng.random() < 0.2:
        return mutated(payload, others, rng)
    for _ in range(int(rng.integers(1, 4))):
        value = mutated_value(value, rng)
    return json.dumps(value, indent=2 if rng.random() < 0.5 else None).encode()


def fuzz(target: Target, seconds: float = SECONDS) -> Counter[str]:
    """Run a target on its kept inputs, then on mutations until time is up; all but errors of ours fail."""
    seed = int(os.environ.get("NEUROFM_SHARDS_FUZZ_SEED", "0"))
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    before = peak_memory()
    for payload in [*target.seeds, *target.inputs()]:
        run_one(target, payload, outcomes)
    end, slowest = time.process_time() + seconds, 0.0
    while time.process_time() < end:
        payload = target.mutate(target.seeds[int(rng.integers(0, len(target.seeds)))], target.seeds, rng)
        before_it = time.process_time()
        run_one(target, payload, outcomes)
        slowest = max(slowest, time.process_time() - before_it)
    grown = peak_memory() - before
    print(
        f"\n{target.name}: {outcomes.total()} executions, {dict(outcomes)}, "
        f"slowest {slowest:.3f} s, memory +{grown >> 20} MiB"
    )
    assert not outcomes["unhelpful"], "an error without a message, or with an endless one"
    assert grown < MEMORY
    assert slowest < SLOWEST
    return outcomes


def run_one(target: Target, payload: bytes, outcomes: Counter[str]) -> None:
    """Run one input; an error that is not ours is shown with the input and kept."""
    _remember(target, payload)
    try:
        target.run(payload)
        outcomes["values"] += 1
    except NeurofmShardsError as error:
        outcomes[type(error).__name__] += 1
        if not 5 < len(str(error)) < 1000:
            print(f"{target.name}: {payload[:300]!r}: message of {len(str(error))} characters")
            outcomes["unhelpful"] += 1
    except BaseException:
        print(f"{target.name}: {payload[:300]!r} ({len(payload)} bytes), kept as {_keep(target, payload)}")
        raise


def peak_memory() -> int:
    """Return the most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _remember(target: Target, payload: bytes) -> None:
    """Write the input down before it is run, so that it is known after a crash of the process."""
    folder = os.environ.get("NEUROFM_SHARDS_FUZZ_FOUND")
    if folder:
        Path(folder, f"{target.name}.last").write_bytes(payload)


def _keep(target: Target, payload: bytes) -> Path:
    folder = os.environ.get("NEUROFM_SHARDS_FUZZ_FOUND") or tempfile.gettempdir()
    path = Path(folder, f"{target.name}.{zlib.crc32(payload):08x}.found")
    path.write_bytes(payload)
    return path
