"""Gathering shuffled batches against a memory map of the same rows, interleaved in one process.

Run it as a script: ``python tests/benchmarks/bench_gather.py``. Every batch is compared with its source in an untimed
pass first. Figures are medians of samples per second, and the ratio to the map.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from neurofm_shards.loading.tensors import batch_to_tensors
from neurofm_shards.plugins.registry import registry
from neurofm_shards.shards.collection import ShardCollection
from neurofm_shards.shards.shard_table import find_compression
from neurofm_shards.shards.writer import WebDatasetWriter

Arrays = dict[str, np.ndarray]


def write_shards(folder: Path, arrays: Arrays, num_shards: int, suffix: str = "", extension: str = "npy") -> None:
    """Write plain shards with tarfile alone, as others would."""
    folder.mkdir()
    count = len(next(iter(arrays.values())))
    for shard, rows in enumerate(np.array_split(np.arange(count), num_shards)):
        mode: Any = f"w:{suffix}" if suffix else "w"
        with tarfile.open(folder / f"shard_{shard:06d}.tar{'.' + suffix if suffix else ''}", mode) as tar:
            for row in rows.tolist():
                for name, array in arrays.items():
                    data = io.BytesIO()
                    np.save(data, array[row])
                    member = tarfile.TarInfo(f"sample_{row + 1:09d}.{name}.{extension}")
                    member.size = data.tell()
                    data.seek(0)
                    tar.addfile(member, data)


def write_ours(folder: Path, arrays: Arrays, num_shards: int, codec: str = "pyd", compression: str = "none") -> None:
    """Write shards with this program."""
    count = len(next(iter(arrays.values())))
    with WebDatasetWriter(folder, shard_size=-(-count // num_shards), codec=codec, compression=compression) as writer:
        for row in range(count):
            writer.write_sample({name: array[row] for name, array in arrays.items()})


def ragged_case(folder: Path, rounds: int) -> None:
    """Ragged columns against slices of a map joined by numpy."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(500, 1500, 4000)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    np.save(folder / "ragged.npy", rng.standard_normal((int(bounds[-1]), 2)).astype("f4"))
    values = np.load(folder / "ragged.npy", mmap_mode="r")
    with WebDatasetWriter(folder / "ragged") as writer:
        for start, stop in pairwise(bounds.tolist()):
            writer.write_sample({"x": values[start:stop]})

    def limit(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([values[bounds[i] : bounds[i + 1]] for i in rows]))

    with ShardCollection.open(folder / "ragged") as data:

        def ours(rows: np.ndarray) -> torch.Tensor:
            return batch_to_tensors(data.gather(rows), ragged="packed")["x"]

        for rows in batches(4000, 32, rng):
            assert torch.equal(ours(rows), limit(rows))
        compare("8 KB ragged, packed, against slices of a map", 4000, 32, ours, limit, rounds)


def compressed_case(folder: Path, compression: str, rounds: int) -> None:
    """Shuffled within windows of 1,000, against decompressing every frame once in one thread."""
    counts = {"spikes": np.random.default_rng(2).poisson(0.3, (4000, 100, 96)).astype("u1")}
    place = folder / compression
    write_ours(place, counts, 4, compression=compression)
    rates: list[tuple[float, float]] = []
    for turn in range(rounds):
        rng = np.random.default_rng(turn)
        order = np.concatenate([rng.permutation(np.arange(low, low + 1000)) for low in range(0, 4000, 1000)])
        with ShardCollection.open(place) as data:
            start = time.perf_counter()
            for rows in order[: len(order) // 32 * 32].reshape(-1, 32):
                data.gather(rows)
            ours = 4000 / (time.perf_counter() - start)
            frames = sum(len(data.index(i).frames) for i in range(4))
            assert data.frames_decoded == frames, "each frame is decoded once"
            start = time.perf_counter()
            for shard in range(4):
                table, path = data.index(shard).frames, place / data.shard_names[shard]
                raw, decoder = path.read_bytes(), find_compression(path.name)
                for i in range(len(table)):
                    low = int(table.file_offsets[i])
                    out = bytearray(int(table.raw_bounds[i + 1] - table.raw_bounds[i]))
                    decoder.decompress_frame(memoryview(raw)[low : low + int(table.file_sizes[i])], memoryview(out))
            rates.append((ours, 4000 / (time.perf_counter() - start)))
    ratios = sorted(a / b for a, b in rates)
    mine, theirs = (median(column) for column in zip(*rates, strict=True))
    title = f"9.6 KB counts, {compression}, windows, against decoding once"
    print(f"{title:52s} {mine:>12,.0f} {theirs:>12,.0f} {median(ratios):6.2f}  [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    order = rng.permutation(count)[: count // size * size]
    return iter(order.reshape(-1, size))


def compare(
    title: str,
    count: int,
    size: int,
    ours: Callable[[np.ndarray], Any],
    limit: Callable[[np.ndarray], Any],
    rounds: int,
) -> None:
    """Time both in turns; print medians and their ratio."""
    rates: dict[str, list[float]] = {"ours": [], "map": []}
    for turn in range(rounds + 1):
        rng = np.random.default_rng(turn)
        for name, fetch in (("map", limit), ("ours", ours)):
            todo = list(batches(count, size, rng))
            start = time.perf_counter()
            for rows in todo:
                kept = fetch(rows)
            del kept
            rates[name].append(len(todo) * size / (time.perf_counter() - start))
    mine, theirs = median(rates["ours"][1:]), median(rates["map"][1:])
    ratios = sorted(a / b for a, b in zip(rates["ours"][1:], rates["map"][1:], strict=True))
    print(f"{title:52s} {mine:>12,.0f} {theirs:>12,.0f} {median(ratios):6.2f}  [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


def case(
    folder: Path, title: str, arrays: Arrays, num_shards: int, size: int, *, columns: list[str] | None = None,
    cast: str | None = None, codec: str = "foreign", rounds: int = 9,
) -> None:  # fmt: skip
    """Write one data set, check every batch once, and time it."""
    place = folder / title.replace(" ", "-").replace(",", "")
    if codec == "foreign":
        write_shards(place, arrays, num_shards)
    else:
        write_ours(place, arrays, num_shards, codec)
    maps = {}
    for name in columns or list(arrays):
        np.save(place / f"{name}.npy", arrays[name])
        maps[name] = np.load(place / f"{name}.npy", mmap_mode="r")
    count = len(next(iter(arrays.values())))
    dtypes = dict.fromkeys(maps, cast) if cast else None
    with ShardCollection.open(place) as data:

        def ours(rows: np.ndarray) -> dict[str, torch.Tensor]:
            return {name: torch.from_numpy(value) for name, value in data.gather(rows, columns, dtypes=dtypes).items()}

        def limit(rows: np.ndarray) -> dict[str, torch.Tensor]:
            found = {name: array[rows] for name, array in maps.items()}
            return {name: torch.from_numpy(a if cast is None else a.astype(cast)) for name, a in found.items()}

        for rows in batches(count, size, np.random.default_rng(99)):
            mine, theirs = ours(rows), limit(rows)
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs), title
        compare(title, count, size, ours, limit, rounds)


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    spikes, behavior = rng.standard_normal((4000, 100, 96)), rng.standard_normal((4000, 100, 2))
    quick = {"spikes": spikes, "behavior": behavior}
    print(f"{'case':52s} {'gather /s':>12s} {'memmap /s':>12s} {'ratio':>6s}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case(folder, "78 KB, 4 shards", quick, 4, 32, rounds=rounds)
        case(folder, "78 KB, 1000 shards", quick, 1000, 32, rounds=rounds)
        case(folder, "78 KB, 4 shards, ours, pyd", quick, 4, 32, codec="pyd", rounds=rounds)
        case(folder, "78 KB, 1000 shards, ours, pyd", quick, 1000, 32, codec="pyd", rounds=rounds)
        case(folder, "78 KB, 4 shards, one column", quick, 4, 32, columns=["behavior"], rounds=rounds)
        single = {key: value.astype("f4") for key, value in quick.items()}
        case(folder, "38 KB float32, 4 shards", single, 4, 32, rounds=rounds)
        counts = {"spikes": rng.poisson(0.2, (4000, 100, 96)).astype("u1")}
        case(folder, "9.6 KB counts to float32, 4 shards", counts, 4, 32, cast="f4", rounds=rounds)
        small = {"x": rng.standard_normal((50_000, 256)).astype("f4")}
        case(folder, "1 KB, batches of 256", small, 5, 256, rounds=rounds)
        case(folder, "78 KB, 4 shards, batches of 512", quick, 4, 512, rounds=rounds)
        ragged_case(folder, rounds)
        for compression in ("gz", "xz", "zstd") if "zstd" in registry().compressions.names() else ("gz", "xz"):
            compressed_case(folder, compression, max(3, rounds // 3))


if __name__ == "__main__":
    main()
