"""Everything that takes bytes from outside, as targets for fuzzing: what it must do with any bytes at all."""

from __future__ import annotations

import functools
import io
import json
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
from fuzz_engine import INTERESTING, NUMBERS, Target, mutated, mutated_json, mutated_value

from neurofm_shards.compression.frames import MAX_FRAME_BYTES, FrameTable
from neurofm_shards.errors import FormatError
from neurofm_shards.expressions import compile_expression
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.index_io import build_index, read_index, shard_fingerprint
from neurofm_shards.format.manifest import Manifest, parse_manifest
from neurofm_shards.format.metadata_table import MetadataTable, read_part
from neurofm_shards.format.sidecar import parse_arrays
from neurofm_shards.format.tar import TarReader
from neurofm_shards.loading.state import LoaderState, read_state
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.types import Block, Ragged
from neurofm_shards.writing.shard_writer import ShardWriter


@functools.cache
def _folder() -> Path:
    memory = Path("/dev/shm")  # noqa: S108  (a folder of its own is made there)
    return Path(tempfile.mkdtemp(prefix="neurofm-fuzz-", dir=memory if memory.is_dir() else None))


# -- tar


def tar_seeds() -> list[bytes]:
    """Archives of three formats, with long names, folders, hidden files, and our own."""
    rng = np.random.default_rng(3)
    npy = io.BytesIO()
    np.save(npy, rng.normal(size=(3, 4)))
    files = {
        "a.x.npy": npy.getvalue(), "a.metadata.json": b'{"i": 1}', "b.x.npy": npy.getvalue(), "b.cls": b"7",
        "deep/" * 30 + "c.x.npy": npy.getvalue(), "é.txt": b"hello", ".hidden": b"x", "__meta__.json": b"{}",
    }  # fmt: skip
    seeds = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind, bufsize=512) as tar:
            folder = tarfile.TarInfo("deep")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for name, payload in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(payload)
                if kind == tarfile.PAX_FORMAT and name == "b.cls":
                    info.pax_headers = {"path": "b.cls2", "size": "1", "comment": "x", "mtime": "1.5"}
                tar.addfile(info, io.BytesIO(payload))
        seeds.append(out.getvalue()[: len(out.getvalue()) // 512 * 512])
    return [*(seed[: _end(seed)] for seed in seeds), small_shard().read_bytes()]


def _end(tar: bytes) -> int:
    used = len(tar.rstrip(b"\0"))
    return -(-used // 512) * 512 + 1024


@functools.cache
def small_shard() -> Path:
    """A shard of ours with arrays, ragged arrays and metadata, and its sidecars."""
    rng = np.random.default_rng(5)
    ragged = Ragged(rng.random((9, 2)), np.array([0, 2, 5, 9]))
    path = _folder() / "s.tar"
    notes = [{"i": i, "name": f"n{i % 2}", "rate": i / 2, "ok": i > 1, "mixed": [None, 1, "x"][i]} for i in range(3)]
    with ShardWriter(path, 0) as writer:
        writer.write_block(Block({"x": rng.random((3, 5)), "r": ragged, "o": [1, "two", None]}, notes))
    return path


def mutated_tar(payload: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change headers field by field, payloads and blocks; header checksums are mostly put right again."""
    data = bytearray(payload)
    for _ in range(int(rng.integers(1, 4))):
        headers = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
        action = rng.random()
        if not headers or action < 0.1:
            data = bytearray(mutated(bytes(data), others, rng))
            continue
        at = headers[int(rng.integers(0, len(headers)))]
        if action < 0.2:
            del data[at : at + 512 * int(rng.integers(1, 3))]
        elif action < 0.3:
            data[at:at] = data[at : at + 512 * int(rng.integers(1, 3))]
        elif action < 0.4:
            body = min(at + 512, len(data) - 1)
            data[body : body + 40] = mutated(bytes(data[body : body + 40]), others, rng)[:40].ljust(40, b"\n")
        else:
            _change_header(data, at, rng)
        if at + 512 <= len(data) and rng.random() < 0.9:
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


_FIELDS = [(0, 100), (124, 12), (124, 12), (124, 12), (156, 1), (156, 1), (157, 100), (257, 8), (345, 155), (148, 8)]
_SIZES = [b"%011o\0" % n for n in (0, 1, 511, 512, 513, 1 << 20, (1 << 33) - 1)] + [
    b"\x80" + n.to_bytes(11, "big") for n in (0, 600, 1 << 40, 1 << 63, (1 << 88) - 1)
]
_SIZES += [b"\xff" * 12, b"-0000000001\0", b" " * 12, b"\0" * 12, b"7777777777 \0", b"0000 00001\0\0", b"9" * 12]


def _change_header(data: bytearray, at: int, rng: np.random.Generator) -> None:
    offset, width = _FIELDS[int(rng.integers(0, len(_FIELDS)))]
    field = bytes(data[at + offset : at + offset + width])
    if offset == 124 and rng.random() < 0.7:
        field = _SIZES[int(rng.integers(0, len(_SIZES)))]
    elif offset == 156:
        field = bytes([int(rng.choice([*b"01234567LKSxgVMD\0", 255]))])
    elif offset == 0 and rng.random() < 0.5:
        field = [b"../x.y", b"/abs.x", b"a.x.npy", b"a\nb.x", b"\xff.x", b"a\\b.x", b"", b"k", b".x"][
            rng.integers(0, 9)
        ]
    else:
        field = mutated(field, [bytes(INTERESTING)], rng)
    data[at + offset : at + offset + width] = field[:width].ljust(width, b"\0")


def read_tar(payload: bytes) -> object:
    """Mapped and streamed reading agree, and what is accepted is what Python's tarfile sees."""
    found: list[Any] = []
    for source in (memoryview(payload), io.BytesIO(payload)):
        reader = TarReader(source, name="fuzz", digests=True)
        try:
            members = list(reader)
            found.append((members, reader.record_offsets, reader.record_digests, reader.tail, reader.tar_bytes))
        except FormatError as error:
            found.append(error)
    first, second = found
    if isinstance(first, FormatError):
        assert isinstance(second, FormatError), "a stream accepts what a map refuses"
        raise first
    assert first == second, "a stream is read differently than a map"
    try:
        with tarfile.open(fileobj=io.BytesIO(payload), mode="r:") as tar:
            theirs = [(item.name, item.offset_data, item.size) for item in tar if item.isreg()]
    except tarfile.ReadError:
        theirs = []
    ours = [(member.name, member.offset, member.size) for member in first[0]]
    names = {member.name for member in first[0]}
    theirs = [item for item in theirs if item[0] in names]
    # It stops at damaged numbers that nobody needs (mode, owner): without a word, but for the first header's.
    assert ours[: len(theirs)] == theirs, "tarfile sees other members"
    return len(ours)


def index_tar(payload: bytes) -> object:
    """An index that was built never leaves its shard."""
    path = _folder() / "built.tar"
    path.write_bytes(payload)
    return check_index(build_index(path), len(payload))


def check_index(index: ShardIndex, size: int) -> int:
    """Assert that everything lies inside the shard."""
    assert index.tar_bytes == size
    records = index.record_offsets
    assert (np.diff(records) >= 0).all()
    assert len(index.keys()) == index.num_samples
    assert 0 <= records[0] <= records[-1] <= size
    for column in index.columns.values():
        offsets, sizes = column.payload_offsets, column.payload_sizes
        assert (offsets >= -1).all()
        assert (sizes >= 0).all()
        assert (offsets + sizes <= size).all()
        if column.data_offsets is None:
            continue
        shape = column.spec.shape or ()
        shapes = column.shapes if column.shapes is not None else np.tile(np.array(shape, float), (len(offsets), 1))
        nbytes = shapes.astype(float).prod(axis=1) * np.dtype(column.spec.dtype).itemsize
        placed = column.data_offsets >= 0
        assert (column.data_offsets + nbytes <= size)[placed].all()
    return index.num_samples


# -- sidecars


def packed_sidecar(header: dict[str, Any], table: Any, body: bytes) -> bytes:
    """A sidecar of these parts under a right checksum."""
    text = orjson.dumps({"arrays": table, "header": header}, default=str)
    raw = struct.pack("<II", len(text), 0) + text + bytes(-(24 + len(text)) % 64) + body
    return b"NFMSIDE1" + xxhash.xxh3_64_intdigest(raw).to_bytes(8, "little") + raw


def mutated_sidecar(payload: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change header, list of arrays or numbers, and put the checksum right again."""
    if rng.random() < 0.05:
        return mutated(payload, others, rng)
    length = int.from_bytes(payload[16:20], "little")
    parsed = json.loads(payload[24 : 24 + length])
    header, table = parsed["header"], parsed["arrays"]
    body = bytearray(payload[-(-(24 + length) // 64) * 64 :])
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.random()
        if kind < 0.6:
            header = mutated_value(header, rng)
        elif kind < 0.75:
            table = mutated_value(table, rng)
        elif len(body) >= 8:
            at = int(rng.integers(0, len(body) // 8)) * 8
            number = int(rng.choice(NUMBERS)) & (1 << 64) - 1
            body[at : at + 8] = number.to_bytes(8, "little")
    try:
        return packed_sidecar(header, table, bytes(body))
    except orjson.JSONEncodeError:  # an integer of more than 64 bits
        return mutated(payload, others, rng)


def sidecar_seeds(suffix: str) -> Callable[[], list[bytes]]:
    """The sidecars of the small shard."""
    return lambda: [(small_shard().parent / ".neurofm" / (small_shard().name + suffix)).read_bytes()]


def container(payload: bytes) -> object:
    """Arrays of a container lie inside it."""
    _, arrays = parse_arrays(payload)
    assert sum(array.size > 0 for array in arrays.values()) * 1 <= len(payload)
    for array in arrays.values():
        assert array.nbytes <= len(payload)
        assert not array.flags.writeable or array.size == 0
    return len(arrays)


def stored_index(payload: bytes) -> object:
    """An index that is believed never leaves its shard, and all it says can be asked for."""
    shard = small_shard()
    place = _folder() / "fuzzed.idx"
    place.write_bytes(payload)
    index = read_index(place, shard.name, shard.stat().st_size, shard_fingerprint(shard))
    check_index(index, shard.stat().st_size)
    assert [index.packed_keys.at(i) for i in range(index.num_samples)] == index.keys()
    return index.checksum


def stored_metadata(payload: bytes) -> object:
    """Of a metadata table that is believed, every column can be asked for."""
    place = _folder() / "fuzzed.meta"
    place.write_bytes(payload)
    table = MetadataTable([read_part(place, shard_fingerprint(small_shard()), 3)])
    for name in table.names:
        assert table.values(name).shape == (3,)
        assert table.nulls(name).shape == (3,)
        if table.kind(name) == "text":
            codes, texts = table.codes(name)
            assert codes.shape == (3,)
            assert len(texts) <= 3
    return table.omitted


# -- manifest, frames, state, expressions


def manifest_seeds() -> list[bytes]:
    """A manifest with everything in it."""
    from neurofm_shards.format.manifest import ColumnEntry, ShardEntry, TableEntry, manifest_bytes

    shards = [
        ShardEntry(
            shard_name=f"shard_{i:06d}.tar", shard_idx=i, num_samples=5, shard_bytes=9216, tar_bytes=9216,
            checksum="0" * 32, samples=[{"sample_id": "a", "n": [1, None]}],
        )
        for i in range(2)
    ]  # fmt: skip
    columns = [ColumnEntry(name="x", codec="npy", extension="npy", dtype="<f4", shape=[3, None], num_samples=10)]
    manifest = Manifest(
        total_samples=10, total_shards=2, shard_size=5, compression="none", modalities=["x"], columns=columns,
        shards=shards, next_key=11, statistics={"columns": {"x": {"count": [1], "mean": [0.5]}}},
        tables={"units": TableEntry(file=".neurofm/tables/units.json", rows=3)}, sources=[{"path": "a.nwb"}],
        failures=[{"path": "b", "reason": "c"}], config={"shard_size": 5}, software={"neurofm-shards": "1"},
    )  # fmt: skip
    return [manifest_bytes(manifest), json.dumps(manifest.model_dump()).encode()]


def read_manifest_bytes(payload: bytes) -> object:
    """Names stay in the folder, and sums agree."""
    manifest = parse_manifest(payload)
    for shard in manifest.shards:
        assert Path(shard.shard_name).name == shard.shard_name
        assert not shard.shard_name.startswith(".")
    assert sum(shard.num_samples for shard in manifest.shards) == manifest.total_samples
    for table in manifest.tables.values():
        parts = Path(table.file).parts
        assert parts[0] == ".neurofm"
        assert ".." not in parts
    assert sum(shard.tar_bytes for shard in manifest.shards) < 1 << 62
    return [
        column.dtype is None or np.dtype(column.dtype).kind in "biufc" or column.name for column in manifest.columns
    ]


def frame_seeds() -> list[bytes]:
    """Frame tables as int64 numbers: count, tar bytes, file bytes, then the three arrays."""
    sound = [3, 300, 90, *(0, 100, 200, 300), *(10, 40, 70), *(30, 30, 20)]
    return [np.array(sound, "<i8").tobytes(), np.array([0, 0, 0, 0], "<i8").tobytes()]


def mutated_numbers(payload: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change whole int64 numbers."""
    numbers = np.frombuffer(payload[: len(payload) // 8 * 8], "<i8").copy()
    for _ in range(int(rng.integers(1, 4))):
        if len(numbers):
            at = int(rng.integers(0, len(numbers)))
            moved = int(numbers[at]) + int(rng.integers(-40, 40))
            numbers[at] = np.clip(moved, -(1 << 62), 1 << 62) if rng.random() < 0.5 else int(rng.choice(NUMBERS))
    return numbers.tobytes() if rng.random() < 0.95 else numbers[:-1].tobytes()


def frame_table(payload: bytes) -> object:
    """Frames that are believed cover the tar, stay in the file and do not overlap."""
    numbers = np.frombuffer(payload[: len(payload) // 8 * 8], "<i8")
    if len(numbers) < 3:
        raise FormatError("too short for a table")
    count, tar_bytes, file_bytes = (int(n) for n in numbers[:3])
    count = min(max(count, 0), 50)
    rest = numbers[3:]
    arrays = {"raw_bounds": rest[: count + 1], "file_offsets": rest[count + 1 : 2 * count + 1]}
    if count % 7 != 6:
        arrays["file_sizes"] = rest[2 * count + 1 : 3 * count + 1]
    table = FrameTable.from_arrays(arrays, tar_bytes=tar_bytes, file_bytes=file_bytes)
    raw = [int(n) for n in table.raw_bounds]
    spans = [(int(a), int(a) + int(s)) for a, s in zip(table.file_offsets, table.file_sizes, strict=True)]
    assert raw[0] == 0
    assert raw[-1] == tar_bytes
    assert all(0 < b - a <= MAX_FRAME_BYTES for a, b in pairwise(raw))
    assert all(0 <= a < b <= file_bytes for a, b in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    return len(table)


def state_seeds() -> list[bytes]:
    """Checkpoints."""
    identity = {"dataset": "f" * 32, "shards": 3, "samples": 30, "seed": 1, "shuffle": True, "subset": None}
    return [json.dumps(LoaderState(2, 17, identity, 1).to_dict()).encode()]


class _Plan:
    """A plan of 30 samples."""

    appendable = True

    def identity(self) -> dict[str, Any]:
        return json.loads(state_seeds()[0])["identity"]

    def prefix_identity(self, shards: int) -> dict[str, Any]:
        return {**self.identity(), "shards": shards, "samples": 10 * shards}

    def length(self, epoch: int) -> int:
        return 30

    def finished(self, epoch: int, position: int) -> bool:
        return position >= 30


def checkpoint(payload: bytes) -> object:
    """A state that is accepted stands inside the epoch."""
    place = _folder() / "state.json"
    place.write_bytes(payload)
    state = read_state(place)
    epoch, position = state.resume(_Plan())  # type: ignore[arg-type]
    assert 0 <= position < 30
    assert epoch >= 0
    return epoch


EXPRESSIONS = (
    'subject == "M1" and rate > 0.5', "i % 2 == 0 or not ok", "name in ('a', 'b', None)", "mixed is None", "-i + 1 < 2",
    "1 < i <= 3 != 4", "(i // 0) / 2 - 3 * i > 1e300", "x is not None and (ok == True)", "i in {1, 2.5}",
)  # fmt: skip
_WORDS = [
    "and", "or", "not", "in", "is", "None", "True", "subject", "i", "rate", "ok", "name", "mixed", "(", ")", "[", "]",
    "{", "}", ",", "==", "!=", "<", "<=", ">", "+", "-", "*", "/", "//", "%", "**", "@", ".", "()", "__class__", "'a'",
    '"', "1", "0", "9223372036854775807", "1e400", "1j", "lambda:", "if", "else", "f'{i}'", ":=", "~", "<<", "\n", "#",
    "99999999999999999999", "await", "\\", "\0", "é",
]  # fmt: skip


def mutated_expression(payload: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Put words in, take words out."""
    words = payload.decode("utf-8", "replace").split(" ")
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(words) + 1))
        kind = rng.random()
        if kind < 0.4:
            words.insert(at, str(rng.choice(_WORDS)))
        elif kind < 0.7:
            words[at : at + 1] = [str(rng.choice(_WORDS))]
        elif kind < 0.75:
            words[at:at] = words * 3
        elif kind < 0.8:
            words[at:at] = [str(rng.choice(["(", "not", "-", "["]))] * int(rng.integers(1, 200))
        else:
            del words[at : at + 2]
    text = " ".join(words).encode("utf-8", "replace")[:6000]
    return text if rng.random() < 0.9 else mutated(text, others, rng)


_COLUMNS = {
    "i": np.arange(4), "rate": np.array([0.5, np.nan, np.inf, 3]), "ok": np.array([True, False, True, True]),
    "name": np.array(["a", "b", None, "é"], object), "mixed": np.array([None, 1, "x", 2.5], object),
    "subject": np.array(["M1", "M2", "M1", "M3"]), "x": np.full(4, None, object), "big": np.array([2**63] * 4, "u8"),
}  # fmt: skip


def expression(payload: bytes) -> object:
    """A mask, or a ConfigError."""
    compiled = compile_expression(payload.decode("utf-8", "replace"))
    mask = compiled(_COLUMNS)
    assert mask.dtype == np.bool_
    assert mask.shape == (4,)
    return mask


# -- compressions


def compressed_seeds(compression: Compression) -> Callable[[], list[bytes]]:
    """Whole files of this compression."""

    def make() -> list[bytes]:
        files = []
        for raw in (np.random.default_rng(1).poisson(0.3, 4000).astype("u1").tobytes(), bytes(20_000), b"spike" * 700):
            assembler = compression.assembler()
            start = assembler.start()
            files.append(start + assembler.add(raw, compression.compress_frame(raw)) + assembler.finish())
        return [*files, files[0] + files[2]]

    return make


#: Most bytes that are taken out of a fuzzed stream.
STREAM_LIMIT = 1 << 22


def stream(compression: Compression) -> Callable[[bytes], object]:
    """A decompressed stream is read in bounded pieces; damage is a FormatError."""

    def run(payload: bytes) -> object:
        done = 0
        with compression.open(io.BytesIO(payload)) as file:
            while done < STREAM_LIMIT and (part := file.read(1 << 14)):
                assert len(part) <= 1 << 14
                done += len(part)
        return done

    return run


def frame(compression: Compression) -> Callable[[bytes], object]:
    """A frame fills just what it is to fill."""
    out = bytearray(4000)

    def run(payload: bytes) -> None:
        compression.decompress_frame(memoryview(payload), memoryview(out))

    return run


def frame_inputs(compression: Compression) -> Callable[[], list[bytes]]:
    """Single frames of 4,000 bytes and others."""

    def make() -> list[bytes]:
        raw = [np.random.default_rng(1).poisson(0.3, 4000).astype("u1").tobytes(), bytes(20_000), b"spikes" * 700]
        if compression.random_access:
            return [compression.compress_frame(part) for part in raw]
        return compressed_seeds(compression)()

    return make


# -- a whole data set


@functools.cache
def _dataset() -> tuple[Path, dict[str, bytes]]:
    """A folder of two shards (one compressed), and its files."""
    from neurofm_shards.writing.dataset_writer import WebDatasetWriter

    folder = _folder() / "data"
    rng = np.random.default_rng(0)
    with WebDatasetWriter(folder, shard_size=3, compression="gz") as writer:
        for i in range(5):
            writer.write_sample({"x": rng.random(6), "r": rng.random((i, 2)), "o": {"n": i}}, metadata={"i": i})
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return folder, files


def dataset_seeds() -> list[bytes]:
    """What to change: the number of the file, and its bytes."""
    _, files = _dataset()
    wanted = [name for name in files if name.endswith((".gz", ".idx", ".meta", "metadata.json"))]
    return [bytes([list(files).index(name)]) + files[name] for name in wanted]


def mutated_dataset(payload: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Change the file in the way its format asks for."""
    _, files = _dataset()
    name = list(files)[payload[0]]
    change = (
        mutated_sidecar if name.endswith((".idx", ".meta")) else mutated_json if name.endswith(".json") else mutated
    )
    return payload[:1] + change(payload[1:], [other[1:] for other in others], rng)


def read_dataset(payload: bytes) -> object:
    """Everything is read in every way, with one file changed."""
    from neurofm_shards.reading.collection import ShardCollection

    folder, files = _dataset()
    names = list(files)
    changed = names[payload[0] % len(names)] if payload else names[0]
    for name, content in files.items():
        (folder / name).write_bytes(payload[1:] if name == changed else content)
    with ShardCollection.open(folder, io="mmap" if len(payload) % 2 else "pread", verify=len(payload) % 3 == 0) as data:
        rows = np.arange(min(data.num_samples, 20))
        batch = data.gather(rows)
        data.metadata(rows)
        data.keys(rows)
        table = data.metadata_table()
        for name in table.names:
            table.values(name)
        return batch


def compressions() -> Iterator[Compression]:
    """All that are installed."""
    from neurofm_shards.plugins.registry import registry

    for name in registry().compressions.names():
        yield registry().compressions.instance(name)


def _make(name: str, seeds: Callable[[], list[bytes]], run: Callable[[bytes], object], mutate: Any) -> Target:
    return Target(name, seeds(), run, mutate)


PLAIN: dict[str, tuple[Callable[[], list[bytes]], Callable[[bytes], object], Any]] = {
    "tar": (tar_seeds, read_tar, mutated_tar),
    "tar-index": (tar_seeds, index_tar, mutated_tar),
    "container": (sidecar_seeds(".idx"), container, mutated_sidecar),
    "index": (sidecar_seeds(".idx"), stored_index, mutated_sidecar),
    "metadata": (sidecar_seeds(".meta"), stored_metadata, mutated_sidecar),
    "manifest": (manifest_seeds, read_manifest_bytes, mutated_json),
    "frames": (frame_seeds, frame_table, mutated_numbers),
    "state": (state_seeds, checkpoint, mutated_json),
    "expression": (lambda: [text.encode() for text in EXPRESSIONS], expression, mutated_expression),
    "dataset": (dataset_seeds, read_dataset, mutated_dataset),
}


def target(name: str) -> Target:
    """Return a target by name: one of ``PLAIN``, or ``stream-gz``, ``frame-zstd`` and so on."""
    if name in PLAIN:
        return _make(name, *PLAIN[name])
    kind, _, which = name.partition("-")
    compression = next(each for each in compressions() if each.name == which)
    if kind == "stream":
        return _make(name, compressed_seeds(compression), stream(compression), mutated)
    return _make(name, frame_inputs(compression), frame(compression), mutated)
