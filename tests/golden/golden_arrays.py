"""Data sets from arrays and single samples: every codec and compression, ragged columns, maintenance."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from contextlib import redirect_stdout
from functools import partial
from importlib.metadata import version
from unittest import mock

import numpy as np
from golden_digests import digest, digests_of_folder

from neurofm_shards import WebDatasetWriter, create_shards_from_arrays
from neurofm_shards.__main__ import main
from neurofm_shards.types import Ragged

DTYPES = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16", ">f4", ">i2")


def made_arrays(count=60):
    """Return columns of several shapes and dtypes, made by arithmetic alone."""
    rows = np.arange(count)
    columns = {
        "spikes": (rows[:, None, None] * 7 + np.arange(30)[:, None] * 3 + np.arange(9)).astype("u1") % 11,
        "behavior": (rows[:, None, None] / 4 - np.arange(30)[:, None] + np.arange(2) / 8).astype("f4"),
        "reward": rows % 3,
        "note": [{"trial": row, "side": ("left", "right")[row % 2], "x": row / 2} for row in rows.tolist()],
    }
    metadata = [{"session_id": f"day{row // 15}", "trial": row % 15, "rate": row / 8} for row in rows.tolist()]
    return columns, metadata


def of_dtypes(scratch, codec):
    """Write an array of every dtype that a codec stores."""
    columns = {}
    for dtype in DTYPES:
        name = dtype.strip(">") + ("be" if dtype[0] == ">" else "") if dtype != "?" else "bool"
        columns[name] = (np.arange(20 * 6).reshape(20, 2, 3) % 100).astype(dtype)
    columns["fortran"] = np.asfortranarray(np.arange(40.0).reshape(20, 2))
    columns["scalar"], columns["empty"] = np.arange(20), np.zeros((20, 0, 4), "f4")
    create_shards_from_arrays(scratch / "out", columns, shard_size=8, codec=codec)
    return digests_of_folder(scratch / "out")


def with_codec(scratch, **options):
    columns, metadata = made_arrays()
    create_shards_from_arrays(scratch / "out", columns, 25, metadata, **options)
    return digests_of_folder(scratch / "out")


def library_of(name):
    """Return the library whose version decides the bytes of a compressed shard, where there is one."""
    if name == "gz":
        return {"library": f"zlib {zlib.ZLIB_RUNTIME_VERSION}"}
    package = {"zstd": "zstandard", "lz4": "lz4"}.get(name)
    return {"library": f"{package} {version(package)}"} if package else {}


def _unpacked(path):
    return {".gz": gzip, ".bz2": bz2, ".xz": lzma}[path.suffix].decompress(path.read_bytes())


def compressed(scratch, name):
    """Write more than one frame; the tar inside is compared in any case where the standard library opens it."""
    rows = np.arange(150)
    columns = {"lfp": (rows[:, None, None] * 5 + np.arange(250)[:, None] * np.arange(32)).astype("i2"), "row": rows}
    create_shards_from_arrays(scratch / "out", columns, 100, compression=name)
    shards = sorted((scratch / "out").glob("shard_*"))
    inside = {"tar inside": digest(b"".join(map(_unpacked, shards)))} if name in {"gz", "bz2", "xz"} else {}
    return library_of(name) | inside | digests_of_folder(scratch / "out")


def ragged(scratch, codec):
    lengths = np.arange(40) * 7 % 12
    starts = np.concatenate([[0], np.cumsum(lengths)])
    times = np.arange(starts[-1] * 3, dtype="f4").reshape(-1, 3) / 16
    columns = {
        "times": Ragged(times, starts),
        "some": [None if row % 4 == 1 else np.full(row % 3, row, "i2") for row in range(40)],
        "fixed": np.arange(40, dtype="f8"),
    }
    create_shards_from_arrays(scratch / "out", columns, shard_size=16, codec=codec)
    return digests_of_folder(scratch / "out")


def single_samples(scratch, **options):
    """Write samples one by one: named and numbered, with gaps, nested JSON, odd texts, and added to later."""
    for part in range(2):
        with WebDatasetWriter(scratch / "out", shard_size=7, **options) as writer:
            for row in range(10):
                sample = {"x": np.arange(row % 4 * 3, dtype="f4").reshape(-1, 3), "n": row, "flag": row % 2 == 0}
                if row % 3 == 0:
                    sample["text"] = f"Zeile {row}: \u00e4\u20ac\u4e2d"
                sample_id = f"M1/day {part}.{row}" if row % 2 else None
                writer.write_sample(sample, sample_id, {"row": row, "nan": float("nan"), "list": [row, None, "x"]})
    return digests_of_folder(scratch / "out")


def run(*words):
    """Run a command of the command line; return its exit code."""
    with mock.patch.object(sys, "argv", ["neurofm-shards", *map(str, words)]), redirect_stdout(io.StringIO()):
        return main()


def dropped(scratch):
    with_codec(scratch)
    run("drop", scratch / "out", "--where", 'session_id == "day1" or trial == 3')
    return digests_of_folder(scratch / "out")


def merged(scratch):
    columns, metadata = made_arrays()
    for name, part in (("a", slice(0, 25)), ("b", slice(25, 60))):
        create_shards_from_arrays(
            scratch / name,
            {key: values[part] for key, values in columns.items()},
            10,
            metadata[part],
            sample_ids=[f"row {row}" for row in range(60)][part],
        )
    run("merge", "-i", scratch / "a", scratch / "b", "-o", scratch / "out")
    return digests_of_folder(scratch / "out")


def repaired(scratch):
    """Build a data set's index and manifest anew from its shards, one of them cut short."""
    with_codec(scratch)
    shard = scratch / "out" / "shard_000001.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    (scratch / "out" / "dataset_metadata.json").unlink()
    (scratch / "out" / ".neurofm" / "shard_000000.tar.idx").unlink()
    run("repair", scratch / "out")
    return digests_of_folder(scratch / "out")


def array_cases():
    """Return the cases by name: a function of a scratch folder that returns digests."""
    cases = {f"codec: {name}": partial(with_codec, codec=name) for name in ("pyd", "npy")}
    cases["codec: npy for one column, json for another"] = partial(
        with_codec, codecs={"behavior": "npy", "note": "json"}
    )
    cases |= {f"dtypes: {name}": partial(of_dtypes, codec=name) for name in ("pyd", "npy")}
    for name in ("none", "gz", "bz2", "xz", "zstd", "lz4"):
        cases[f"compression: {name}"] = partial(compressed, name=name)
    cases |= {f"ragged: {name}": partial(ragged, codec=name) for name in ("pyd", "npy")}
    cases["single samples"] = single_samples
    cases["single samples: npy, gz"] = partial(single_samples, codec="npy", compression="gz")
    cases["merge"], cases["drop"], cases["repair"] = merged, dropped, repaired
    return cases
