"""Off the happy path: none of these may fall onto a slow path."""

from __future__ import annotations

from harness.bench import OURS, Bench, Runner
from harness.cases_read import against_map
from harness.client import ContenderError

GLOBAL = {"shuffle": "global"}


def paths(bench: Bench) -> None:
    """Selections, transforms, codecs, types, foreign shards, sizes, ragged columns: each against the memory map."""
    source = bench.source("quick", 4000, 1500)
    count = 1500 if bench.quick else 4000
    pyd = bench.written(OURS, source, "ours-4", shards=4)
    npy = bench.written(OURS, source, "ours-npy", shards=4, codec="npy")
    half = Runner(OURS, pyd, {**GLOBAL, "where": "half == 0"}, expected=list(range(0, count, 2)))
    against_map(bench, "where=, half of the samples", source, half, 0.8, step=2)
    one = Runner(OURS, pyd, {**GLOBAL, "columns": ["spikes"]}, columns=["spikes"])
    against_map(bench, "columns=, one of two", source, one, 0.8, columns=["spikes"])
    scaled = Runner(OURS, pyd, {**GLOBAL, "scaled": True}, scale=2.0)
    against_map(bench, "one vectorised transform", source, scaled, 0.8, scaled=True)
    against_map(bench, ".npy", source, Runner(OURS, npy, GLOBAL), 0.8)
    _foreign(bench)
    single = bench.source("single", 4000, 1500)
    folder = bench.written(OURS, single, "ours-single", shards=4)
    against_map(bench, "float32", single, Runner(OURS, folder, GLOBAL), 0.8)
    counts = bench.source("counts", 4000, 1500)
    folder = bench.written(OURS, counts, "ours-counts", shards=4)
    against_map(bench, "uint8 counts, given as float32", counts, Runner(OURS, folder, GLOBAL), 0.8, cast="float32")
    stored = Runner(OURS, folder, {**GLOBAL, "counts": "stored"})
    against_map(bench, "uint8 counts, as stored", counts, stored, 0.8)
    small = bench.source("small", 50_000, 10_000)
    folder = bench.written(OURS, small, "ours-small", shards=5)
    against_map(bench, "1 KB, batches of 256", small, Runner(OURS, folder, {**GLOBAL, "batch_size": 256}), 0.8)
    large = bench.source("large", 300, 100)
    folder = bench.written(OURS, large, "ours-large", shards=4)
    against_map(bench, "1 MB, batches of 8", large, Runner(OURS, folder, {**GLOBAL, "batch_size": 8}), 0.8)
    ragged = bench.source("ragged", 4000, 1500)
    folder = bench.written(OURS, ragged, "ours-ragged", shards=4)
    packed = Runner(OURS, folder, {**GLOBAL, "ragged": "packed"})
    against_map(bench, "ragged columns, packed", ragged, packed, 0.8)


def _foreign(bench: Bench) -> None:
    """Shards that webdataset wrote."""
    source = bench.source("quick", 4000, 1500)
    for extension in ("npy", "pyd"):
        case = f"foreign shards, webdataset's .{extension}"
        try:
            folder = bench.written("webdataset", source, f"foreign-{extension}", shards=4, extension=extension)
        except (KeyError, ContenderError) as error:
            bench.results.lack(case, f"webdataset is not there to write them: {error}")
            continue
        against_map(bench, case, source, Runner(OURS, folder, GLOBAL), 0.8)


def python_transform(bench: Bench) -> None:
    """Run a function that holds the GIL, in processes."""
    source = bench.source("quick", 4000, 1500)
    folder = bench.written(OURS, source, "ours-4", shards=4)
    runners = [
        Runner(OURS, folder, {**GLOBAL, "python": True, "num_workers": count}, label=f"{OURS}, {count} workers")
        for count in (0, 2)
    ]
    case = "pure-Python transform that holds the GIL"
    found = bench.race(case, source, runners, rounds=bench.slow_rounds)
    title = f"{case}, 2 workers against 0"
    if len(found) == len(runners):
        bench.results.hold(title, found[runners[1].name] / found[runners[0].name], 1.5)
    else:
        bench.results.fail(title, 1.5, "it does not work; see what could not be measured")
