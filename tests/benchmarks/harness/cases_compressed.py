"""Compressed shards: shuffled within windows, against the library decompressing the same bytes once."""

from __future__ import annotations

from harness.bench import LIBRARY, OURS, Bench, Runner

#: For zstd; gz is held to the same.
BAR = 0.6


def compressed(bench: Bench) -> None:
    """Counts and floats, zstd and gz."""
    for name, title in (("counts", "9.6 KB counts"), ("quick", "78 KB floats")):
        source = bench.source(name, 4000, 1500)
        for compression in ("zstd", "gz") if name == "counts" else ("zstd",):
            folder = bench.written(OURS, source, f"ours-{name}-{compression}", shards=4, compression=compression)
            ours = Runner(OURS, folder, {"shuffle": True, "buffer_size": 1000})
            limit = Runner(LIBRARY, folder, {"compression": compression})
            case = f"{compression}, {title}, shuffled within 1000"
            found = bench.race(case, source, [limit, ours])
            bench.results.hold(f"{case}, against decompressing once", found[OURS] / found[LIBRARY], BAR)
