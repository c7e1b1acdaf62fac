"""Shuffled batches: against the memory map, and against the peers."""

from __future__ import annotations

from pathlib import Path

from harness.bench import CAT, MAP, OURS, TARFILE, Bench, Runner, may_drop_caches
from harness.client import ContenderError

WORKERS = (0, 2, 4)


def against_map(bench: Bench, case: str, source: Path, ours: Runner, bar: float, **map_options: object) -> None:
    """Hold one way of loading to the memory map doing the same work."""
    batch = {"batch_size": ours.options["batch_size"]} if "batch_size" in ours.options else {}
    limit = Runner(
        MAP, source, {**batch, **map_options}, columns=ours.columns, expected=ours.expected, scale=ours.scale
    )
    found = bench.race(case, source, [limit, ours])
    if ours.name in found and MAP in found:
        bench.results.hold(f"{case}, against the memory map", found[ours.name] / found[MAP], bar)
    else:
        bench.results.fail(f"{case}, against the memory map", bar, bench.results.absent[f"{ours.name}: {case}"])


def shuffled(bench: Bench) -> None:
    """Quick-reference samples in 4 and 1,000 shards, without and with workers."""
    source = bench.source("quick", 4000, 1500)
    four = bench.written(OURS, source, "ours-4", shards=4)
    many = bench.written(OURS, source, "ours-1000", shards=1000)
    options = {"shuffle": "global"}
    against_map(bench, "shuffled, 78 KB, 4 shards", source, Runner(OURS, four, options), 0.8)
    against_map(bench, "shuffled, 78 KB, 1000 shards", source, Runner(OURS, many, options), 0.7)
    for count in WORKERS[1:]:
        runner = Runner(OURS, four, {**options, "num_workers": count})
        against_map(bench, f"shuffled, 78 KB, 4 shards, {count} workers", source, runner, 0.7)
    windows = Runner(OURS, four, {"shuffle": True, "buffer_size": 1000})
    against_map(bench, "shuffled within 1000, 78 KB, 4 shards", source, windows, 0.8)


def peers(bench: Bench) -> None:
    """Everybody on the same samples, at each number of workers."""
    source = bench.source("quick", 4000, 1500)
    _everybody(bench, "78 KB", source, "quick", 32, WORKERS, bar=10)
    small = bench.source("small", 50_000, 10_000)
    _everybody(bench, "1 KB", small, "small", 256, WORKERS[:2], bar=20)
    large = bench.source("large", 300, 100)
    _everybody(bench, "1 MB", large, "large", 8, (0,), bar=None)


def _everybody(
    bench: Bench, size: str, source: Path, name: str, batch: int, workers: tuple[int, ...], bar: float | None
) -> None:
    folders = written(bench, source, name)
    best, ours = 0.0, 0.0
    for count in workers:
        runners = []
        for who, folder in folders.items():
            if who == TARFILE and count:
                continue
            options = {"batch_size": batch, "num_workers": count}
            runners.append(Runner(who, folder, {**options, "shuffle": "global"} if who == OURS else options))
        case = f"all, shuffled, {size}, batches of {batch}, {count} workers"
        found = bench.race(case, source, runners, rounds=bench.slow_rounds)
        ours = max(ours, found.pop(OURS, 0.0))
        best = max([best, *(rate for who, rate in found.items() if who != TARFILE)])
    if bar is not None and best:
        bench.results.hold(f"shuffled, {size}, against the fastest peer", ours / best, bar)
    elif bar is not None:
        bench.results.fail(f"shuffled, {size}, against the fastest peer", bar, "no peer could be measured")


def written(bench: Bench, source: Path, name: str) -> dict[str, Path]:
    """Let everybody write a data set; return the folders."""
    folders = {}
    for who in (OURS, TARFILE, *bench.peers):
        try:
            place = f"{name}-{bench.clients[who].slug}"
            folders[who] = bench.written(who, source, place)
        except ContenderError as error:
            bench.results.lack(f"{who}: writing {name}", str(error))
    return folders


def sequential(bench: Bench) -> None:
    """Storage order, warm and cold; cold against ``cat`` of the same files."""
    source = bench.source("quick", 4000, 1500)
    folders = written(bench, source, "quick")
    runners = [Runner(who, folder, {"shuffle": False}) for who, folder in folders.items()]
    limit = Runner(MAP, source, {"shuffle": False})
    bench.race("all, sequential, warm, 78 KB", source, [limit, *runners], rounds=bench.slow_rounds)
    if not may_drop_caches():
        bench.results.lack("cold cache", "only root may write /proc/sys/vm/drop_caches")
        return
    runners = [runner for runner in runners if runner.who != OURS]
    ours = Runner(OURS, folders[OURS], {"shuffle": False})
    cat = Runner(CAT, folders[OURS])
    found = bench.race(
        "all, sequential, cold, 78 KB", source, [cat, ours, *runners], rounds=bench.slow_rounds, cold=True
    )
    bench.results.hold("cold, sequential, against cat of the same files", found[OURS] / found[CAT], 0.8)
