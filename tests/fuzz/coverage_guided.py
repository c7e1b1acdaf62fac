"""Runs a fuzzing target under atheris, which looks for inputs that reach new code; needs ``pip install atheris``.

Usage: ``python coverage_guided.py TARGET [libFuzzer options]``, for example ``index -max_total_time=600``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris  # type: ignore[import-not-found,unused-ignore]
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["neurofm_shards"]):
    from fuzz_targets import target

    from neurofm_shards.errors import NeurofmShardsError


def main(name: str, options: list[str]) -> None:
    """Fuzz until libFuzzer is told to stop."""
    chosen = target(name)

    def one(data: bytes) -> None:
        try:
            chosen.run(data)
        except NeurofmShardsError:
            return

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        try:
            return chosen.mutate(data or chosen.seeds[0], chosen.seeds, rng)[:most]
        except (
            ValueError,
            LookupError,
            TypeError,
        ):  # damaged before, so that its format no longer says where to change
            return chosen.mutate(chosen.seeds[seed % len(chosen.seeds)], chosen.seeds, rng)[:most]

    folder = Path(mkdtemp(prefix="neurofm-corpus-"))
    for i, seed in enumerate([*chosen.seeds, *chosen.inputs()]):
        (folder / str(i)).write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, "-max_len=65536", str(folder)], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
