"""Load, build and save indexes: beside the data, else in the user's cache; trusted only when they match their shard."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import numpy as np
import xxhash

from neurofm_shards._typing import AnyArray
from neurofm_shards._wording import counted
from neurofm_shards.errors import FormatError, InputNotFoundError, NeurofmShardsError
from neurofm_shards.format.files import SIDECAR_DIR, Folder, open_error, open_regular
from neurofm_shards.format.index import ColumnIndex, Encoded, IndexLog, ShardIndex
from neurofm_shards.format.resolve import codec_by_extension, find_compression
from neurofm_shards.format.sidecar import (
    INDEX_SUFFIX,
    SIDECAR_SUFFIXES,
    Arrays,
    PackedInts,
    load_ints,
    load_strings,
    read_arrays,
    sidecar_paths,
    store_ints,
    store_strings,
    write_arrays,
)
from neurofm_shards.format.tar import Member, TarReader
from neurofm_shards.limits import most_decoded
from neurofm_shards.types import ColumnSpec

if TYPE_CHECKING:
    from neurofm_shards.compression.frames import FrameTable

_PIECE = 4096
#: Pickles of other programs say at their end, too, what they hold; larger ones are decoded rather than copied.
_HEAD_BYTES = 1 << 22
T = TypeVar("T")

INDEX_VERSION = 1

_DTYPE = re.compile(r"[<>|][biufc](1|2|4|8|16)")
_HEX = re.compile(r"[0-9a-f]{16}")
_MAX_BYTES = 1 << 60


def shard_fingerprint(path: Path | str) -> str:
    """Return xxh3_64 of a file's size and of its first, middle and last 4 KiB, in hexadecimal.

    Times and names play no part: a copied or moved shard keeps its fingerprint. A change that leaves the size and all
    three pieces alone is found by the checksums (``validate``, ``verify=True``), not here.
    """
    descriptor = open_regular(path)
    try:
        return fingerprint_of(descriptor)
    finally:
        os.close(descriptor)


def fingerprint_of(descriptor: int) -> str:
    """Return the fingerprint of an open shard; see :func:`shard_fingerprint`."""
    size = os.fstat(descriptor).st_size
    digest = xxhash.xxh3_64(size.to_bytes(8, "little"))
    for start in (0, size // 2, max(size - _PIECE, 0)):
        digest.update(os.pread(descriptor, _PIECE, start))
    return digest.hexdigest()


def build_index(shard_path: Path | str, *, mapped: bool = True) -> ShardIndex:
    """Read a shard from end to end and say where everything is.

    Parameters
    ----------
    shard_path : path-like
        A tar, or one compressed by a registered compression (found by its suffix).
    mapped : bool
        Whether a plain tar may be mapped, which ends the process where it shrinks meanwhile.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    FormatError
        The shard is damaged, truncated or hostile; an :class:`~neurofm_shards.errors.UnsupportedError` where it is
        sound but holds what is not read.
    """
    path = Path(shard_path)
    with opened_tar(path, mapped=mapped) as (source, limit):
        reader = TarReader(source, name=path.name, limit=limit, digests=True)
        log = IndexLog()
        for member in reader:
            _note(log, member, reader)
    log.records, log.digests = reader.record_offsets[:-1], reader.record_digests
    return log.finish(
        reader.record_offsets[-1],
        shard_name=path.name,
        shard_bytes=file_size(path),
        tar_bytes=reader.tar_bytes,
        fingerprint=shard_fingerprint(path),
    )


def _note(log: IndexLog, member: Member, reader: TarReader) -> None:
    if not log.keys or log.keys[-1] != member.key:
        log.keys.append(member.key)
    codec = codec_by_extension(member.extension)
    layout = None if codec is None else codec.layout(reader.head(member, _HEAD_BYTES), member.size)
    column = log.column(member.field, "" if codec is None else codec.name, member.extension)
    value = Encoded(member.size, ())
    if layout is not None:
        place = -1 if layout.fortran else layout.offset  # column-major arrays have to be decoded
        value = Encoded(member.size, (), place, (layout.dtype, layout.shape))
    column.add(len(log.keys) - 1, member.offset, value)


@contextlib.contextmanager
def opened_tar(path: Path, *, mapped: bool = True) -> Iterator[tuple[memoryview | BinaryIO, int | None]]:
    """Give a shard's decompressed tar (mapped, or as a stream) and the most bytes it may have.

    Whatever a decompressor stumbles over becomes a FormatError.
    """
    size = file_size(path)
    compression = find_compression(path.name)
    with os.fdopen(open_regular(path), "rb") as file:
        if compression is None:
            if not mapped:
                yield file, None
                return
            # Not closed by hand: a view of it may still be held; it goes with the last of them.
            yield _mapped(file, path) if size else memoryview(b""), None
            return
        try:
            with compression.open(file) as stream:
                yield stream, most_decoded(size)
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            if isinstance(error, NeurofmShardsError):
                raise
            if isinstance(error, OSError) and error.errno is not None:
                raise open_error(path, error) from error
            raise FormatError(f"{path.name} cannot be decompressed ({type(error).__name__}: {error})") from error


def _mapped(file: BinaryIO, path: Path) -> memoryview:
    try:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be mapped ({error}): is it really so large?") from error


def file_size(path: Path) -> int:
    """Return a shard's size; InputNotFoundError where there is no such file, StorageError where it is out of reach."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  (on a hot path)
    except FileNotFoundError as error:
        raise InputNotFoundError(f"there is no shard {path}") from error
    except OSError as error:
        raise open_error(path, error) from error


def cache_folder() -> Path:
    """Return the user's cache folder for sidecars of read-only data."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "neurofm_shards" / "sidecars"


def load_index(shard_path: Path | str, checksum: str | None = None, *, mapped: bool = True) -> ShardIndex:
    """Return a shard's index: its sidecar where that matches the shard, else a new one, which is kept.

    Parameters
    ----------
    shard_path : path-like
        The shard.
    checksum : str, optional
        What the manifest says. An index that says something else is made anew; where the shard itself does, nothing
        is kept, because the old index may be all that still knows what the shard held.
    mapped : bool
        See :func:`build_index`.

    Raises
    ------
    InputNotFoundError
        There is no such shard.
    FormatError
        The shard is damaged or hostile, or not the one that the manifest lists.
    """
    path = Path(shard_path)
    stored = _stored(path)
    if stored is not None and checksum in (None, stored.checksum):
        return stored
    index = build_index(path, mapped=mapped)
    if checksum not in (None, index.checksum):
        raise FormatError(
            f"{path}: not the shard that the manifest lists ({counted(index.num_samples, 'sample')} in "
            f"{index.tar_bytes:,} bytes with checksum {index.checksum}, expected {checksum}); restore it, or run "
            "`neurofm-shards repair`"
        )
    if stored is not None:
        _forget_table(path, index.fingerprint)  # it was made of the same old shard
    keep(path, INDEX_SUFFIX, lambda target, mode: save_index(index, target, mode=mode))
    return index


def _forget_table(path: Path, fingerprint: str) -> None:
    """Delete metadata tables that a stale index vouched for."""
    beside = sidecar_paths(path)[1]
    for place in (beside, cached_path(path.name, fingerprint, beside.suffix)):
        with contextlib.suppress(OSError), Folder.open(place.parent) as folder:
            folder.remove(place.name)


def _stored(path: Path) -> ShardIndex | None:
    size, fingerprint = file_size(path), shard_fingerprint(path)
    return sidecar(path, fingerprint, INDEX_SUFFIX, lambda place: read_index(place, path.name, size, fingerprint))


def sidecar(path: Path, fingerprint: str, suffix: str, read: Callable[[Path], T]) -> T | None:
    """Return the first sidecar of a shard that is there and belongs to it; None when it has to be made anew."""
    folder, name = os.path.split(path)  # ten times faster than Path, and this is done for each of a thousand shards
    found = _readable(Path(f"{folder or '.'}/{SIDECAR_DIR}/{name}{suffix}"), read)
    return _readable(cached_path(path.name, fingerprint, suffix), read) if found is None else found


def _readable(place: Path, read: Callable[[Path], T]) -> T | None:
    try:
        return read(place)
    except (FormatError, InputNotFoundError, NotADirectoryError, PermissionError):
        return None  # absent or not of this shard: the shard itself is the truth


def cached_path(shard_name: str, fingerprint: str, suffix: str) -> Path:
    """Return where a sidecar lies in the user's cache: found by content, so that moved data keeps it."""
    return cache_folder() / fingerprint[:2] / f"{fingerprint}-{shard_name[:100]}{suffix}"


def keep(path: Path, suffix: str, save: Callable[[Path, int], None]) -> Path | None:
    """Save a sidecar beside the data, else in the user's cache; return where, None when neither can be written.

    It can be read by those who can read the shard; in the cache by its user alone.
    """
    mode = stat.S_IMODE(path.stat().st_mode) & 0o666
    beside = path.parent / SIDECAR_DIR / (path.name + suffix)
    if _saved(beside, lambda target: save(target, mode)):
        return beside
    elsewhere = cached_path(path.name, shard_fingerprint(path), suffix)
    return elsewhere if _saved(elsewhere, lambda target: save(target, 0o600), private=True) else None


def _saved(target: Path, save: Callable[[Path], None], *, private: bool = False) -> bool:
    try:
        Folder.open(target.parent, create=True).close()
        if private:
            for folder in (target.parent, target.parent.parent, target.parent.parent.parent):
                folder.chmod(0o700)
        save(target)
    except OSError:
        return False  # read-only or full: a sidecar only saves time
    return True


def forget_cached(shard_name: str, fingerprint: str) -> int:
    """Delete what the user's cache holds of a shard; return how many files that were."""
    paths = [cached_path(shard_name, fingerprint, suffix) for suffix in SIDECAR_SUFFIXES]
    found = [path for path in paths if path.exists()]
    for path in found:
        path.unlink()
    return len(found)


def save_index(index: ShardIndex, path: Path, *, durable: bool = False, mode: int | None = None) -> None:
    """Write an index to a sidecar."""
    arrays: Arrays = {"digests": index.digests}
    header = {
        "kind": "index",
        "version": INDEX_VERSION,
        "shard": [index.shard_name, index.shard_bytes, index.tar_bytes, index.num_samples, index.fingerprint],
        "records": store_ints(index.packed_records, "records", arrays),
        "keys": store_strings(index.packed_keys, "keys", arrays),
        "columns": [_store_column(i, column, arrays) for i, column in enumerate(index.columns.values())],
        "frames": None if index.frames is None else _store_frames(index.frames, arrays),
    }
    write_arrays(path, header, arrays, durable, mode)


def _store_column(number: int, column: ColumnIndex, arrays: Arrays) -> list[Any]:
    spec, axes = column.spec, column.packed_shape
    return [
        [spec.name, spec.dtype, spec.shape, spec.unit, spec.table],
        column.codec,
        column.extension,
        store_ints(column.packed_offsets, f"{number}.offsets", arrays),
        store_ints(column.packed_sizes, f"{number}.sizes", arrays),
        None if column.packed_data is None else store_ints(column.packed_data, f"{number}.data", arrays),
        None if axes is None else [store_ints(axis, f"{number}.shape.{k}", arrays) for k, axis in enumerate(axes)],
    ]


def _store_frames(frames: FrameTable, arrays: Arrays) -> Any:
    arrays.update({f"frames.{name}": array for name, array in frames.to_arrays().items()})
    return True


def read_index(path: Path, shard_name: str, shard_bytes: int, fingerprint: str) -> ShardIndex:
    """Read an index and check that it belongs to this shard and stays inside it.

    Raises
    ------
    InputNotFoundError
        There is no such sidecar.
    FormatError
        It is damaged, hostile, of another version, or of another shard.
    """
    index = parse_index(path)
    if (index.shard_name, index.shard_bytes, index.fingerprint) != (shard_name, shard_bytes, fingerprint):
        raise FormatError(f"{shard_name}: its index belongs to another version of it")
    return index


def parse_index(path: Path) -> ShardIndex:
    """Read an index and check that it stays inside the shard it describes, whatever became of that.

    Raises
    ------
    InputNotFoundError
        There is no such sidecar.
    FormatError
        It is damaged, hostile, or of another version.
    """
    header, arrays = read_arrays(path)
    try:
        return _parse(header, arrays)
    except FormatError as error:
        raise FormatError(f"index {path.name}: {error}") from error


def _parse(header: dict[str, Any], arrays: dict[str, AnyArray]) -> ShardIndex:
    match header:
        case {
            "kind": "index",
            "version": 1,
            "shard": [str(name), int(size), int(tar_bytes), int(n), str(fingerprint)],
            "records": records,
            "keys": keys,
            "columns": [*columns],
            "frames": frames,
        } if 0 <= n < 1 << 40 and 0 <= tar_bytes < _MAX_BYTES and _HEX.fullmatch(fingerprint):
            pass
        case _:
            raise FormatError("it is not an index of this version")
    digests = arrays.get("digests")
    if digests is None or digests.shape != (n,) or digests.dtype.str != "<u8":
        raise FormatError("its digests are missing")
    if name.endswith(".tar") and (frames or tar_bytes != size):
        raise FormatError("its sizes contradict each other")
    if tar_bytes > most_decoded(size):
        raise FormatError(f"it promises {tar_bytes:,} bytes in a file of {size:,}, which is taken for a bomb")
    packed_records = load_ints(records, n + 1, arrays)
    _check_records(packed_records, tar_bytes)
    parsed = [_parse_column(column, n, tar_bytes, arrays) for column in columns]
    by_name = {column.spec.name: column for column in parsed}
    if len(by_name) != len(parsed):
        raise FormatError("it names a column twice")
    return ShardIndex(
        name, size, tar_bytes, n, fingerprint, packed_records, load_strings(keys, n, arrays), digests, by_name,
        _parse_frames(arrays, tar_bytes, size) if frames else None,
    )  # fmt: skip


def _check_records(records: PackedInts, tar_bytes: int) -> None:
    low, high = records.bounds()
    falls = records.step < 0 if records.values is None else bool((np.diff(records.array()) < 0).any())
    if falls or low < 0 or high > tar_bytes:
        raise FormatError("its records leave the shard")


def _parse_column(stored: object, n: int, tar_bytes: int, arrays: dict[str, AnyArray]) -> ColumnIndex:
    match stored:
        case [[str(name), dtype, shape, unit, table], str(codec), str(extension), offsets, sizes, data, axes]:
            spec = ColumnSpec(name, stored_dtype(dtype), _shape(shape), stored_text(unit), stored_text(table))
        case _:
            raise FormatError(f"its column {stored!r:.60} is damaged")
    column = ColumnIndex(
        spec, codec, extension, load_ints(offsets, n, arrays), load_ints(sizes, n, arrays),
        None if data is None else load_ints(data, n, arrays),
        tuple(load_ints(axis, n, arrays) for axis in axes) if isinstance(axes, list) and len(axes) <= 64 else None,
    )  # fmt: skip
    _check_inside(f"payloads of {name!r}", column.packed_offsets, column.packed_sizes, tar_bytes)
    if column.packed_data is not None:
        _check_data(column, tar_bytes)
    return column


def _check_inside(what: str, offsets: PackedInts, sizes: PackedInts, limit: int) -> None:
    low, high = offsets.bounds()
    smallest, largest = sizes.bounds()
    if low < -1 or smallest < 0:
        raise FormatError(f"its {what} have negative places")
    if high + largest > limit and bool((offsets.array() + sizes.array() > limit).any()):
        raise FormatError(f"its {what} leave the shard")


def _check_data(column: ColumnIndex, tar_bytes: int) -> None:
    spec, axes = column.spec, column.packed_shape
    if spec.dtype is None or spec.shape is None or (axes is None) == spec.ragged:
        raise FormatError(f"its column {spec.name!r} contradicts itself")
    lengths: list[PackedInts] = list(axes) if axes is not None else []
    n = column.packed_offsets.length
    if axes is None:
        lengths = [PackedInts(n, length) for length in spec.shape if length is not None]
    if len(lengths) != len(spec.shape) or any(not axis.bounds()[0] >= 0 for axis in lengths):
        raise FormatError(f"its column {spec.name!r} has impossible shapes")
    largest = np.dtype(spec.dtype).itemsize
    for axis in lengths:
        largest *= max(axis.bounds()[1], 0)
    high = column.packed_data.bounds()[1] if column.packed_data is not None else 0
    if column.packed_data is not None and column.packed_data.bounds()[0] < -1:
        raise FormatError(f"the arrays of {spec.name!r} have negative places")
    if high + largest > tar_bytes:
        _check_each(column, lengths, tar_bytes)


def _check_each(column: ColumnIndex, lengths: list[PackedInts], tar_bytes: int) -> None:
    nbytes = np.full(column.packed_offsets.length, np.dtype(column.spec.dtype).itemsize, np.float64)
    for axis in lengths:
        nbytes *= axis.array()
    if column.packed_data is not None and bool((column.packed_data.array() + nbytes > tar_bytes).any()):
        raise FormatError(f"the arrays of {column.spec.name!r} leave the shard")


def stored_dtype(value: object) -> str | None:
    """Return a dtype that stands in a sidecar; FormatError where it is none of a plain number."""
    if value is None or (isinstance(value, str) and _DTYPE.fullmatch(value)):
        try:
            return None if value is None else np.dtype(value).str
        except TypeError as error:
            raise FormatError(f"its dtype {value!r} does not exist") from error
    raise FormatError(f"its dtype {value!r:.40} is none of a plain number")


def _shape(value: object) -> tuple[int | None, ...] | None:
    match value:
        case None:
            return None
        case [*axes] if len(axes) <= 64 and all(a is None or (type(a) is int and 0 <= a < _MAX_BYTES) for a in axes):
            return tuple(cast("list[int | None]", axes))
    raise FormatError(f"its shape {value!r:.60} is impossible")


def stored_text(value: object) -> str | None:
    """Return a text, or nothing, that stands in a sidecar; FormatError where it is something else."""
    if value is None or isinstance(value, str):
        return value
    raise FormatError(f"its text {value!r:.40} is none")


def _parse_frames(arrays: dict[str, AnyArray], tar_bytes: int, shard_bytes: int) -> FrameTable:
    from neurofm_shards.compression.frames import FrameTable  # noqa: PLC0415  (most shards are not compressed)

    found = {name[7:]: array for name, array in arrays.items() if name.startswith("frames.")}
    return FrameTable.from_arrays(found, tar_bytes=tar_bytes, file_bytes=shard_bytes)
