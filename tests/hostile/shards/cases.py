# ruff: noqa: SIM223, PLW0108  (changes that return nothing, in one line each)
"""Hostile data sets: each case writes a folder that somebody could send."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from tars import ACCEPTED, END, REFUSED, member, npy, sound

from neurofm_shards.format.sidecar import read_arrays, write_arrays
from neurofm_shards.writing.dataset_writer import WebDatasetWriter

Case = Callable[[Path], None]
MANIFEST = "dataset_metadata.json"


@functools.cache
def _sound_folder(compression: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="neurofm-hostile-")) / "data"
    rng = np.random.default_rng(0)
    with WebDatasetWriter(folder, shard_size=3, compression=compression) as writer:
        for i in range(6):
            writer.write_sample(
                {"x": rng.random(6), "r": rng.random((i, 2)), "o": [i]}, metadata={"i": i, "t": f"t{i}"}
            )
    return folder


def sound_dataset(folder: Path, compression: str = "none") -> None:
    """Copy a data set of ours: 6 samples in 2 shards."""
    shutil.copytree(_sound_folder(compression), folder, dirs_exist_ok=True)


def foreign(raw: bytes, name: str = "shard_000000.tar") -> Case:
    """A folder with one shard and nothing else."""

    def make(folder: Path) -> None:
        (folder / name).write_bytes(raw)

    return make


# -- manifests


def manifest(change: Callable[[dict[str, Any]], Any]) -> Case:
    """A data set of ours whose manifest was changed; the change may return the text itself."""

    def make(folder: Path) -> None:
        sound_dataset(folder)
        values = json.loads((folder / MANIFEST).read_text())
        text = change(values)
        (folder / MANIFEST).write_text(text if isinstance(text, str) else json.dumps(values))

    return make


def _put(*path: Any) -> Callable[[dict[str, Any]], None]:
    *steps, last, value = path

    def change(values: Any) -> None:
        for step in steps:
            values = values[step]
        values[last] = value

    return change


def _duplicate(values: dict[str, Any]) -> str:
    return json.dumps(values)[:-1] + ', "shard_size": 9}'


def _thousands_of_columns(values: dict[str, Any]) -> None:
    values["columns"] = [{**values["columns"][0], "name": f"c{i}"} for i in range(5000)]


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "not an object": lambda _: "[]",
    "empty": lambda _: "",
    "cut": lambda v: json.dumps(v)[:200],
    "text": lambda _: "hello",
    "a million brackets": lambda _: "[" * 1_000_000,
    "deep": lambda v: json.dumps(v)[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}",
    "NaN": lambda v: json.dumps(v).replace('"total_samples": 6', '"total_samples": NaN'),
    "duplicate key": _duplicate,
    "unknown version": _put("format_version", 99),
    "version as text": _put("format_version", "1"),
    "no version": lambda v: v.pop("format_version") and None,
    "unknown key": _put("__class__", "os.system"),
    "total as text": _put("total_samples", "6"),
    "total as float": _put("total_samples", 6.0),
    "total is true": _put("total_shards", True),
    "negative total": _put("total_samples", -6),
    "huge total": _put("total_samples", 10**30),
    "sums differ": _put("total_samples", 7),
    "shards as dict": _put("shards", {}),
    "shards of nothing": _put("shards", [None, None]),
    "name leaves": _put("shards", 0, "shard_name", "../outside.tar"),
    "name is absolute": _put("shards", 0, "shard_name", "/etc/passwd"),
    "name is hidden": _put("shards", 0, "shard_name", ".neurofm"),
    "name has a NUL": _put("shards", 0, "shard_name", "a\0b"),
    "name is long": _put("shards", 0, "shard_name", "a" * 300),
    "name is not there": _put("shards", 0, "shard_name", "shard_000009.tar"),
    "shard twice": lambda v: v["shards"].__setitem__(1, v["shards"][0]),
    "same number": _put("shards", 1, "shard_idx", 0),
    "same name": lambda v: v["shards"][1].__setitem__("shard_name", v["shards"][0]["shard_name"]),
    "shards swapped": lambda v: (
        (v["shards"][0].update(shard_name="shard_000001.tar"), v["shards"][1].update(shard_name="shard_000000.tar"))
        and None
    ),
    "negative samples": _put("shards", 0, "num_samples", -3),
    "float samples": _put("shards", 0, "num_samples", 3.5),
    "huge sizes": lambda v: [s.update(tar_bytes=1 << 53, shard_bytes=1 << 53) for s in v["shards"]] and None,
    "wrong size": _put("shards", 0, "tar_bytes", 1 << 20),
    "smaller size": _put("shards", 0, "tar_bytes", 512),
    "wrong checksum": _put("shards", 0, "checksum", "0" * 32),
    "checksum of nothing": _put("shards", 0, "checksum", ""),
    "too many samples": lambda v: (v.update(total_samples=1000), v["shards"][0].update(num_samples=997)) and None,
    "2**52 samples": lambda v: (
        (v.update(total_samples=(1 << 52) + 3), v["shards"][0].update(num_samples=1 << 52)) and None
    ),
    "columns as text": _put("columns", "x"),
    "column twice": lambda v: v["columns"].append(v["columns"][0]),
    "thousands of columns": _thousands_of_columns,
    "column that is not there": lambda v: v["columns"].append({**v["columns"][0], "name": "ghost"}),
    "object dtype": _put("columns", 0, "dtype", "|O"),
    "dtype of no kind": _put("columns", 0, "dtype", "rm -rf"),
    "structured dtype": _put("columns", 0, "dtype", "f4,O"),
    "other dtype": _put("columns", 0, "dtype", "<f4"),
    "huge shape": _put("columns", 0, "shape", [1 << 53, 1 << 53]),
    "overflowing shape": _put("columns", 0, "shape", [1 << 32, 1 << 32]),
    "large shape": _put("columns", 0, "shape", [1 << 40]),
    "negative shape": _put("columns", 0, "shape", [-1]),
    "other shape": _put("columns", 0, "shape", [5]),
    "sixty-five axes": _put("columns", 0, "shape", [1] * 65),
    "huge inner shape": _put("columns", 1, "shape", [None, 1 << 53, 1 << 53]),
    "ragged is constant": _put("columns", 1, "shape", [3, 2]),
    "missing codec": _put("columns", 2, "codec", "nonesuch"),
    "distribution is a command": _put("columns", 0, "distribution", "x; rm -rf /"),
    "compression is a command": _put("compression_distribution", "evil --index-url http://x"),
    "table leaves": _put("tables", {"units": {"file": "../../x.json", "rows": 1}}),
    "table is absolute": _put("tables", {"u": {"file": "/etc/passwd", "rows": 1}}),
    "preview of a thousand": _put("shards", 0, "samples", [{}] * 1000),
    "modalities of numbers": _put("modalities", [1]),
}
#: Manifests that change nothing of what is read.
HARMLESS = {"missing codec"}


# -- sidecars


def _tampered(suffix: str, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Case:
    def make(folder: Path) -> None:
        sound_dataset(folder)
        tamper(folder / ".neurofm" / f"shard_000000.tar{suffix}", change)

    return make


def tamper(place: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Change a sidecar, under a right checksum."""
    header, arrays = read_arrays(place)
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(header, arrays)
    write_arrays(place, header, arrays)


def _column(at: int, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda h, _: h["columns"][0].__setitem__(at, value)


def _frames(h: dict[str, Any], arrays: dict[str, Any]) -> None:
    h["frames"] = True
    size = h["shard"][1]
    arrays["frames.raw_bounds"] = np.array([0, 1 << 20], np.int64)
    arrays["frames.file_offsets"] = np.array([0], np.int64)
    arrays["frames.file_sizes"] = np.array([size], np.int64)
    h["shard"][2] = 1 << 20


INDEXES: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "payloads beyond": _column(3, [1 << 40, 512]),
    "payloads before": _column(3, [-9000, 512]),
    "payloads overlap": _column(3, [512, 0]),
    "sizes negative": _column(4, [-1, 0]),
    "sizes huge": _column(4, [1 << 50, 0]),
    "data beyond": _column(5, [1 << 30, 0]),
    "data elsewhere": _column(5, [512, 0]),
    "shape huge": lambda h, _: h["columns"][0][0].__setitem__(2, [1 << 45]),
    "shape overflows": lambda h, _: h["columns"][0][0].__setitem__(2, [1 << 32, 1 << 32]),
    "dtype of objects": lambda h, _: h["columns"][0][0].__setitem__(1, "|O"),
    "codec of no kind": _column(1, "nonesuch"),
    "other codec": _column(1, "json"),
    "records fall": lambda h, _: h.__setitem__("records", [9000, -512]),
    "samples 2**39": lambda h, _: h["shard"].__setitem__(3, 1 << 39),
    "tar larger than its file": lambda h, _: h["shard"].__setitem__(2, 1 << 30),
    "frames in a plain tar": _frames,
    "keys of a long prefix": lambda h, _: h.__setitem__("keys", ["k" * (1 << 20), 9, [0, 1]]),
    "keys are none": lambda h, _: h.__setitem__("keys", None),
    "column twice": lambda h, _: h["columns"].append(h["columns"][0]),
    "column renamed": lambda h, _: h["columns"][0][0].__setitem__(0, "y"),
    "no columns": lambda h, _: h.__setitem__("columns", []),
    "digests changed": lambda _, a: a["digests"].__setitem__(0, 1),
    "kind": lambda h, _: h.__setitem__("kind", "os.system"),
}
TABLES: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "rows 2**39": lambda h, _: h.__setitem__("rows", 1 << 39),
    "no columns": lambda h, _: h.__setitem__("columns", []),
    "texts 2**39": lambda h, _: h["columns"].append(["big", "text", [0, 0], False, [1 << 39, ["k", 9, [0, 1]]]]),
    "texts beyond": lambda h, _: h["columns"].append(["big", "text", [5, 1], False, [3, ["k", 9, [0, 1]]]]),
    "JSON that is none": lambda h, _: h["columns"].append(["bad", "json", [0, 0], False, [1, ["{", 1, [0, 0]]]]),
    "kind of none": lambda h, _: h["columns"].append(["bad", "pickle", [0, 0], False, None]),
    "gaps missing": lambda h, _: h["columns"].append(["bad", "int", [0, 0], "nulls", None]),
}


def _damaged_frames(change: Callable[[dict[str, Any], dict[str, Any]], Any], compression: str = "gz") -> Case:
    def make(folder: Path) -> None:
        sound_dataset(folder, compression)
        tamper(next((folder / ".neurofm").glob("shard_000000.*.idx")), change)

    return make


def _frame(name: str, value: list[int]) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda _, arrays: arrays.__setitem__(f"frames.{name}", np.array(value, np.int64))


FRAMES = {
    "offset negative": _frame("file_offsets", [-5]),
    "size beyond": _frame("file_sizes", [1 << 40]),
    "size 1": _frame("file_sizes", [1]),
    "bounds fall": _frame("raw_bounds", [100, 0]),
    "bounds short": _frame("raw_bounds", [0]),
    "offset elsewhere": _frame("file_offsets", [0]),
    "a terabyte": lambda h, a: (h["shard"].__setitem__(2, 1 << 40), _frame("raw_bounds", [0, 1 << 40])(h, a)),
    "a gibibyte": lambda h, a: (h["shard"].__setitem__(2, 1 << 30), _frame("raw_bounds", [0, 1 << 30])(h, a)),
}


# -- bombs


def _bomb_tar(mib: int) -> bytes:
    return member(b"a.x.npy", npy(np.zeros(mib << 17))) + END


def _many(data: bytes, times: int, pack: Callable[[bytes], bytes]) -> bytes:
    """One header, then packed zeros many times: a file of members that each decompress to a mebibyte."""
    start = member(b"a.x.raw", b"")[:124] + b"\x80" + (times << 20).to_bytes(11, "big")
    raw = bytearray(start + member(b"a.x.raw", b"")[136:])
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return pack(bytes(raw)) + pack(data) * times


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(data)


def _lz4(data: bytes) -> bytes:
    import lz4.frame

    return lz4.frame.compress(data)


def _zstd_declares(size: int) -> bytes:
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 9, mtime=0),
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=1),
}
PLUGIN_PACKERS: dict[str, Callable[[bytes], bytes]] = {"zst": _zstd, "lz4": _lz4}
MEBIBYTE = bytes(1 << 20)


def _bombs(packers: dict[str, Callable[[bytes], bytes]]) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for suffix, pack in packers.items():
        name = f"shard_000000.tar.{suffix}"
        for label, raw in {
            "cut": lambda p=pack: p(sound())[:-5],
            "not compressed": sound,
            "empty": lambda: b"",
            "rubbish behind": lambda p=pack: p(sound()) + b"rubbish!",
            "packed twice": lambda p=pack: p(p(sound())),
            "bomb of zeros": lambda p=pack: p(bytes(200 << 20)),
            "magic only": lambda p=pack: p(b"")[:4],
        }.items():
            found[f"{suffix}, {label}"] = _lazily(name, raw)
        found[f"{suffix}, flipped bytes"] = _lazily(name, lambda p=pack: _flipped(p(sound())))
    return found


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    for at in range(len(data) // 3, len(data) * 2 // 3, 7):
        changed[at] ^= 0x55
    return bytes(changed)


def _lazily(name: str, raw: Callable[[], bytes]) -> Case:
    return lambda folder: foreign(raw(), name)(folder)


def _empty_members(count: int) -> bytes:
    """An archive of so many empty files, as gz."""
    template = np.frombuffer(member(b"k0000000.x", b""), np.uint8)
    rows = np.tile(template, (count, 1))
    digits = np.arange(count)[:, None] // 10 ** np.arange(6, -1, -1) % 10
    rows[:, 1:8] = digits + 48
    rows[:, 148:156] = 32
    sums = rows.sum(axis=1, dtype=np.int64)
    rows[:, 148:154] = sums[:, None] // 8 ** np.arange(5, -1, -1) % 8 + 48
    rows[:, 154] = 0
    return gzip.compress(rows.tobytes() + END, 1)


# -- files


def _file(make: Callable[[Path, Path], Any], name: str, *, ours: bool = True) -> Case:
    """A data set of which one file is replaced by something else."""

    def write(folder: Path) -> None:
        if ours:
            sound_dataset(folder)
        place = folder / name
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        make(place, folder)

    return write


def _link(target: str) -> Callable[[Path, Path], Any]:
    return lambda place, _: place.symlink_to(target)


SHARD, IDX, META = "shard_000000.tar", ".neurofm/shard_000000.tar.idx", ".neurofm/shard_000000.tar.meta"
WHATS: dict[str, Callable[[Path, Path], Any]] = {
    "a pipe": lambda place, _: os.mkfifo(place),
    "a folder": lambda place, _: place.mkdir(),
    "a link to itself": lambda place, _: place.symlink_to(place.name),
    "a link to an endless device": _link("/dev/zero"),
    "a link to a terminal": _link("/dev/tty"),
    "a link to nothing": _link("/nowhere/at/all"),
    "a link to another file": _link("/etc/passwd"),
    "a socket": lambda place, _: os.mknod(place, 0o140644),
    "empty": lambda place, _: place.write_bytes(b""),
}


def _linked_shards(folder: Path) -> None:
    """As download caches lay data sets out: links to blobs."""
    sound_dataset(folder / "blobs")
    (folder / ".neurofm").mkdir()
    for path in (folder / "blobs").iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)


def _truncated(folder: Path) -> None:
    sound_dataset(folder)
    os.truncate(folder / SHARD, 2048)


def _swapped(folder: Path) -> None:
    sound_dataset(folder)
    shutil.copy(folder / "shard_000001.tar", folder / SHARD)


def _linked_sidecars(folder: Path) -> None:
    """Sidecars of shards from elsewhere would be written through a link."""
    foreign(sound())(folder)
    (folder / "elsewhere").mkdir()
    (folder / ".neurofm").symlink_to(folder / "elsewhere")


def _not_there(name: str) -> Case:
    def make(folder: Path) -> None:
        sound_dataset(folder)
        (folder / name).unlink()

    return make


def _sparse(folder: Path) -> None:
    """A terabyte of nothing, which takes no room on disk."""
    foreign(member(b"a.x.npy"))(folder)
    os.truncate(folder / SHARD, 1 << 40)


def _several(*raws: bytes) -> Case:
    def make(folder: Path) -> None:
        for i, raw in enumerate(raws):
            (folder / f"shard_{i:06d}.tar").write_bytes(raw)

    return make


#: name -> (who is expected to complain, how the folder is made). "either": an error of ours or a sound reading.
def cases(*, plugins: bool = False, large: bool = False) -> dict[str, tuple[str, Case]]:
    """Return all cases, or those of compressions that plugins bring, or those that take minutes."""
    if large:
        packers = {**PACKERS, **PLUGIN_PACKERS}
        del packers["gz"]  # cannot reach the ratio that is taken for a bomb
        found = {
            f"bomb: {k}, 8 GiB in members": (
                "error",
                _lazily(f"shard_000000.tar.{k}", lambda p=p: _many(MEBIBYTE, 8192, p)),
            )
            for k, p in packers.items()
        }
        return found | {
            "tar: a million empty members": ("sound", _lazily("shard_000000.tar.gz", lambda: _empty_members(10**6)))
        }
    if plugins:
        found = {f"bomb: {k}": ("error", case) for k, case in _bombs(PLUGIN_PACKERS).items()}
        found["bomb: zst declares 2**60"] = ("error", _lazily("shard_000000.tar.zst", lambda: _zstd_declares(1 << 60)))
        found["bomb: zst asks for a window of 2**40"] = (
            "error",
            foreign(b"\x28\xb5\x2f\xfd\x00\xf0" + bytes(40), "shard_000000.tar.zst"),
        )
        found |= {f"frames, zst: {k}": ("either", _damaged_frames(c, "zstd")) for k, c in FRAMES.items()}
        return found | {f"frames, lz4: {k}": ("either", _damaged_frames(c, "lz4")) for k, c in FRAMES.items()}
    found = {f"tar: {k}": ("error", foreign(raw)) for k, raw in REFUSED.items()}
    found["tar: metadata, 17 MB"] = ("either", foreign(REFUSED["metadata, 17 MB"]))
    found |= {f"tar: {k}": ("sound", foreign(raw)) for k, raw in ACCEPTED.items()}
    found["tar: same keys in two shards"] = ("either", _several(sound(), sound()))
    found["tar: 10,000 empty members"] = ("sound", _lazily("shard_000000.tar.gz", lambda: _empty_members(10_000)))
    found["tar: a sparse terabyte"] = ("error", _sparse)
    found |= {f"manifest: {k}": ("either" if k in HARMLESS else "error", manifest(c)) for k, c in MANIFESTS.items()}
    found |= {f"index: {k}": ("either", _tampered(".idx", c)) for k, c in INDEXES.items()}
    found |= {f"table: {k}": ("either", _tampered(".meta", c)) for k, c in TABLES.items()}
    found |= {f"frames, gz: {k}": ("either", _damaged_frames(c)) for k, c in FRAMES.items()}
    found |= {f"frames, xz: {k}": ("either", _damaged_frames(c, "xz")) for k, c in FRAMES.items()}
    found |= {f"bomb: {k}": ("error", case) for k, case in _bombs(PACKERS).items()}
    for label, make in WHATS.items():
        found[f"file: shard is {label}"] = ("error", _file(make, SHARD))
        found[f"file: foreign shard is {label}"] = ("error", _file(make, SHARD, ours=False))
        found[f"file: manifest is {label}"] = (
            "either" if label == "a link to nothing" else "error",
            _file(make, MANIFEST),
        )
        found[f"file: index is {label}"] = ("sound", _file(make, IDX))
        found[f"file: table is {label}"] = ("sound", _file(make, META))
        found[f"file: sidecar folder is {label}"] = ("sound", _file(make, ".neurofm"))
    found["file: shards are links"] = ("sound", _linked_shards)
    found["file: sidecar folder is a link"] = ("sound", _linked_sidecars)
    found["file: shard is truncated"] = ("error", _truncated)
    found["file: shard is another one"] = ("error", _swapped)
    found["file: shard is gone"] = ("error", _not_there(SHARD))
    found["file: manifest is gone"] = ("sound", _not_there(MANIFEST))
    return found
