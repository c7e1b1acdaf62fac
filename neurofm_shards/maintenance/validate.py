"""Check a data set, shard by shard, from end to end, and report what was found.

A plain shard in our canonical form is checked against its index in a few NumPy calls; any other is parsed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from neurofm_shards._process import usable_cpus
from neurofm_shards._typing import Bytes, Ints
from neurofm_shards._wording import counted, without_name
from neurofm_shards.errors import FormatError, InputNotFoundError, NeurofmShardsError, NoShardsError, PluginError
from neurofm_shards.format.files import SIDECAR_DIR, SPLITS_NAME, names_in
from neurofm_shards.format.headers import MEMBER_BLOCK, MemberHeaders
from neurofm_shards.format.index import ColumnIndex, ShardIndex
from neurofm_shards.format.index_io import (
    build_index,
    file_size,
    opened_tar,
    read_index,
    shard_fingerprint,
)
from neurofm_shards.format.keys import KEY_BYTES, METADATA_FIELD, check_key, key_hash
from neurofm_shards.format.manifest import MANIFEST_NAME, Manifest, ShardEntry, TableEntry, read_manifest, read_table
from neurofm_shards.format.metadata_table import load_table, metadata_of_shard, split_of_part
from neurofm_shards.format.resolve import codec_by_extension, codec_named
from neurofm_shards.format.sidecar import sidecar_paths
from neurofm_shards.format.tar import Member, TarReader
from neurofm_shards.format.unfinished import why_unfinished
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import Problem
from neurofm_shards.writing.sample_metadata import AUTOMATIC

#: Findings of one shard that are listed; more are counted.
MAX_FINDINGS = 50
#: Larger payloads are hashed but not decoded.
MAX_DECODED_BYTES = 1 << 30
#: Extensions that other readers take for images, sounds or something else.
_MISREAD = frozenset({"h5", "raw", "mat5", "fits", "pickle", "pkl", "pt", "pth"})
Progress = Callable[[int, int], None]
_STEP = 4096


@dataclass(frozen=True)
class Report:
    """All that was found.

    Attributes
    ----------
    folder : str
        The data set.
    findings : tuple of Problem
        In the order of the shards, which are what ``where`` names. Errors are what loses samples, or leaves them wrong
        or unreadable; warnings, what some readers stumble over, or what costs time.
    num_shards, num_samples, num_bytes : int
        What was looked at.
    """

    folder: str
    findings: tuple[Problem, ...]
    num_shards: int
    num_samples: int
    num_bytes: int

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        findings = [
            {"severity": f.severity, "shard": f.where, "key": f.key, "what": f.what, "consequence": f.consequence}
            for f in self.findings
        ]
        return {**asdict(self), "findings": findings, "ok": self.ok}


def bounded(findings: Sequence[Problem], shard: str) -> list[Problem]:
    """Return the findings of one shard, or the first of them and how many more there are."""
    if len(findings) <= MAX_FINDINGS:
        return list(findings)
    more = len(findings) - MAX_FINDINGS
    worst = "error" if any(finding.severity == "error" for finding in findings[MAX_FINDINGS:]) else "warning"
    rest = Problem(shard, f"{more:,} more findings of this shard", "they are not listed one by one", worst)
    return [*findings[:MAX_FINDINGS], rest]


@dataclass
class ShardCheck:
    """The check of one shard.

    Attributes
    ----------
    path : Path
        The shard.
    findings : list of Problem
        What was found.
    index : ShardIndex or None
        What the shard really holds; None when it cannot be read.
    """

    path: Path
    findings: list[Problem] = field(default_factory=list)
    index: ShardIndex | None = None

    def run(self) -> ShardCheck:
        """Check everything; return this."""
        try:
            stored = self._stored_index()
            self.index = self._actual_index(stored)
            if stored is not None:
                self._compare(stored, self.index)
            self._check_metadata(self.index)
            self._check_names(self.index)
        except (NeurofmShardsError, OSError) as error:
            self._add("error", "", str(error), "the shard cannot be read; `neurofm-shards repair` saves whole samples")
        return self

    def _add(self, severity: str, key: str, what: str, consequence: str) -> None:
        what = without_name(what, self.path.name)
        self.findings.append(Problem(self.path.name, what, consequence, severity, key=key))

    def _stored_index(self) -> ShardIndex | None:
        try:
            return read_index(
                sidecar_paths(self.path)[0], self.path.name, file_size(self.path), shard_fingerprint(self.path)
            )
        except FormatError as error:
            self._add("warning", "", str(error), "it is not used; `neurofm-shards repair` makes a new one")
        except FileNotFoundError:
            if not self.path.exists():
                raise
            self._add("warning", "", "it has no index beside it", "opening it takes longer; `neurofm-shards index`")
        return None

    def _actual_index(self, stored: ShardIndex | None) -> ShardIndex:
        if stored is not None and stored.frames is None and stored.tar_bytes == stored.shard_bytes:
            with opened_tar(self.path) as (tar, _):
                if isinstance(tar, memoryview) and is_canonical(tar, stored):
                    return _with_digests(stored, tar)
        self._decode_all()
        return build_index(self.path)

    def _decode_all(self) -> None:
        with opened_tar(self.path) as (source, limit):
            reader = TarReader(source, name=self.path.name, limit=limit)
            for member in reader:
                self._decode(reader, member)
            for name in reader.skipped:
                self._add("warning", "", f"member {name!r} belongs to no sample", "readers skip it, or stumble over it")

    def _decode(self, reader: TarReader, member: Member) -> None:
        codec = codec_by_extension(member.extension)
        if codec is None:
            what = f"no codec reads .{member.extension} (field {member.field!r})"
            self._add("warning", member.key, what, "its bytes are handed out as they are")
        elif member.size > MAX_DECODED_BYTES:
            self._add("info", member.key, f"field {member.field!r} has {member.size:,} bytes", "it was not decoded")
        else:
            try:
                codec.decode(reader.head(member, member.size))
            except FormatError as error:
                self._add("error", member.key, f"field {member.field!r}: {error}", "the sample cannot be read")

    def _compare(self, stored: ShardIndex, actual: ShardIndex) -> None:
        if stored.num_samples != actual.num_samples or stored.keys() != actual.keys():
            self._add("error", "", "its index names other samples than it holds", "run `neurofm-shards repair`")
            return
        wrong = np.flatnonzero(stored.digests != actual.digests)
        for i in wrong.tolist():
            key = actual.packed_keys.at(i)
            self._add("error", key, "its bytes differ from what was written (checksum)", "the sample is damaged")

    def _check_metadata(self, index: ShardIndex) -> None:
        if METADATA_FIELD not in index.columns:
            self._add(
                "warning", "", "its samples have no metadata member", "filters and splits by metadata find nothing"
            )
            return
        fields: tuple[str, ...] | None = None
        for key, values in zip(index.keys(), self._metadata(index), strict=False):
            missing = [name for name in AUTOMATIC if name not in values]
            if missing:
                self._add("warning", key, f"its metadata lack {', '.join(missing)}", "other programs wrote it")
                return
            if fields is not None and tuple(values) != fields:
                what = "its metadata have other names than the sample before"
                self._add("info", key, what, "Hugging Face datasets takes those of the first five samples for all")
                return
            fields = tuple(values)

    def _metadata(self, index: ShardIndex) -> Iterator[dict[str, object]]:
        try:
            yield from metadata_of_shard(self.path, index)
        except FormatError as error:
            self._add("error", "", str(error), "the sample cannot be read")

    def _check_names(self, index: ShardIndex) -> None:
        if index.num_samples == 0:
            self._add("warning", "", "it holds no samples", "some readers stop at empty shards")
        names = index.keys()
        for key in names:
            if len(key) > KEY_BYTES or not key.replace("_", "").replace("-", "").isalnum() or not key.isascii():
                self._check_key(key)
                break
        for column in index.columns.values():
            if column.extension in _MISREAD:
                what = f"field {column.spec.name!r} ends in .{column.extension}"
                self._add("warning", "", what, "other readers take it for something else, or refuse it")
            if column.spec.name != column.spec.name.lower():
                self._add("warning", "", f"field {column.spec.name!r} has upper-case letters", "webdataset lowers them")
            if column.packed_offsets.bounds()[0] < 0:
                what = f"some samples lack field {column.spec.name!r}"
                self._add(
                    "info",
                    "",
                    what,
                    "batches get NAME_valid or lists with gaps; Hugging Face datasets may drop the field",
                )

    def _check_key(self, key: str) -> None:
        try:
            check_key(key)
        except NeurofmShardsError as error:
            self._add("warning", key, str(error), "some readers join or lose samples with such keys")


def _with_digests(index: ShardIndex, tar: memoryview) -> ShardIndex:
    """Return the index with digests of what is there."""
    bounds = index.record_offsets.tolist()
    digests = [xxhash.xxh3_64_intdigest(tar[a:b]) for a, b in pairwise(bounds)]
    return replace(index, digests=np.array(digests, np.uint64))


def validate_dataset(folder: Path | str, workers: int | None = None, progress: Progress | None = None) -> Report:
    """Check structure, checksums, codecs, schema, keys, sidecars and the rules that keep every reader working.

    Parameters
    ----------
    folder : path-like
        A data set, or any folder of shards.
    workers : int, optional
        Shards that are read at once; by default the number of processors.
    progress : callable, optional
        Called with (bytes checked, bytes in all) after each shard.

    Returns
    -------
    Report
        ``report.ok`` is False when samples are lost, wrong or unreadable.

    Raises
    ------
    InputNotFoundError
        There is no such folder.
    NoShardsError
        It holds neither a manifest nor a shard, nor traces of an interrupted conversion.
    """
    path = Path(folder)
    if not os.path.isdir(path):  # noqa: PTH112  (Path raises where a folder above may not be searched)
        raise InputNotFoundError(f"there is no folder {path}")
    findings: list[Problem] = []
    manifest = _manifest(path, findings)
    shards = shard_files(path)
    if manifest is None and not shards and all(finding.severity == "info" for finding in findings):
        raise NoShardsError(f"No shards found in {path} matching *.tar*")
    listed = [path / entry.shard_name for entry in manifest.shards] if manifest else shards
    if manifest is not None:
        _compare_folder(manifest, shards, findings)
        findings += _check_belongings(path, manifest)
    elif not shards:
        findings.append(Problem("", "there are no shards", "this is no data set", "error"))
    checks = _check_shards([shard for shard in listed if shard in shards], workers, progress)
    by_name = {check.path.name: check for check in checks}
    for check in checks:
        findings.extend(bounded(check.findings, check.path.name))
    if manifest is not None:
        for entry in manifest.shards:
            found = by_name.get(entry.shard_name)
            if found is not None and found.index is not None:
                findings.extend(_compare_entry(entry, found.index, manifest))
                findings.extend(_compare_split(entry, found, manifest))
    indexes = [check.index for check in checks if check.index is not None]
    findings.extend(_repeated_keys(indexes))
    return Report(
        str(path),
        tuple(findings),
        len(checks),
        sum(index.num_samples for index in indexes),
        sum(_size(check.path) for check in checks),
    )


def shard_files(folder: Path) -> list[Path]:
    """Return all files of a folder that look like shards: ``*.tar`` with or without the suffix of a compression."""
    suffixes = (".tar", *(f".tar{item.entry.suffix}" for item in registry().compressions.entries()))
    names = [name for name in names_in(folder) if name.endswith(suffixes) and not name.startswith(".")]
    return [folder / name for name in sorted(names)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _manifest(folder: Path, findings: list[Problem]) -> Manifest | None:
    try:
        manifest = read_manifest(folder)
    except FormatError as error:
        findings.append(Problem("", str(error), "run `neurofm-shards repair`", "error"))
        return None
    if manifest is None:
        unfinished = why_unfinished(folder)
        severity, what = "info", f"there is no {MANIFEST_NAME}"
        consequence = "the shards are read one by one; `neurofm-shards index` makes opening faster"
        if unfinished is not None:
            severity, what, consequence = "error", "the data set was never finished", unfinished
        findings.append(Problem("", what, consequence, severity))
    return manifest


def _compare_folder(manifest: Manifest, shards: Sequence[Path], findings: list[Problem]) -> None:
    listed = {entry.shard_name for entry in manifest.shards}
    present = {path.name for path in shards}
    for entry in manifest.shards:
        if entry.shard_name not in present:
            what = f"it is listed in the manifest but is not there ({counted(entry.num_samples, 'sample')})"
            findings.append(Problem(entry.shard_name, what, "its samples are lost", "error"))
    for name in sorted(present - listed):
        what = "it is not listed in the manifest"
        findings.append(Problem(name, what, "it is no part of the data set; other programs will read it"))


def _check_belongings(folder: Path, manifest: Manifest) -> list[Problem]:
    """Look for what the manifest says lies beside the shards, in the hidden folder that copies forget."""
    problems = ((name, _table_problem(folder, entry)) for name, entry in manifest.tables.items())
    found = [
        Problem("", f"side table {name!r}: {problem}", "the numbers of its rows mean nothing", "error")
        for name, problem in problems
        if problem
    ]
    if manifest.splits and not (folder / SIDECAR_DIR / SPLITS_NAME).exists():
        what = f"the saved splits {', '.join(manifest.splits)} are not there"
        found.append(Problem("", what, "split= finds none; copy the hidden folder, or save splits again", "error"))
    return found


def _table_problem(folder: Path, entry: TableEntry) -> str:
    try:
        read_table(folder, entry)
    except FormatError as error:
        return str(error)
    return ""


def _check_shards(paths: Sequence[Path], workers: int | None, progress: Progress | None) -> list[ShardCheck]:
    total, done = sum(map(_size, paths)), 0
    checks = []
    with ThreadPoolExecutor(workers or usable_cpus(), "validate") as pool:
        for check in pool.map(lambda path: ShardCheck(path).run(), paths):
            checks.append(check)
            done += _size(check.path)
            if progress is not None:
                progress(done, total)
    return checks


def _compare_entry(entry: ShardEntry, index: ShardIndex, manifest: Manifest) -> list[Problem]:
    found = []
    for name, said, is_so in (
        ("samples", entry.num_samples, index.num_samples),
        ("bytes", entry.shard_bytes, index.shard_bytes),
        ("bytes of tar", entry.tar_bytes, index.tar_bytes),
        ("as checksum", entry.checksum, index.checksum),
    ):
        if said != is_so:
            what = f"it has {is_so} {name}, and the manifest says {said}"
            found.append(Problem(entry.shard_name, what, "it is not the shard that was written", "error"))
    known = {column.name: column for column in manifest.columns}
    for name, column in index.columns.items():
        if name == METADATA_FIELD:
            continue
        said_column = known.get(name)
        if said_column is None:
            what = f"column {name!r} is not in the manifest"
            found.append(Problem(entry.shard_name, what, "readers do not know of it; repair the manifest", "error"))
        elif said_column.dtype is not None and column.spec.dtype not in (None, said_column.dtype):
            what = f"column {name!r} is {column.spec.dtype}, and the manifest says {said_column.dtype}"
            found.append(Problem(entry.shard_name, what, "batches cannot be joined", "error"))
        elif not _fits(column.spec.shape, said_column.shape):
            what = f"column {name!r} has shape {column.spec.shape}, and the manifest says {said_column.shape}"
            found.append(Problem(entry.shard_name, what, "readers expect other arrays; repair the manifest", "error"))
    for name, said_column in known.items():
        if name not in index.columns and not said_column.optional:
            what = f"column {name!r} is missing"
            found.append(Problem(entry.shard_name, what, "the manifest promises it for every sample", "error"))
    return found


def _compare_split(entry: ShardEntry, found: ShardCheck, manifest: Manifest) -> list[Problem]:
    """Compare the split that a shard is listed under with that of its samples; saved splits are kept elsewhere."""
    if entry.split is None or manifest.splits or found.index is None:
        return []
    if split_of_part(load_table(found.path, found.index).parts[0]) == entry.split:
        return []
    what = f"its samples are not all of the split {entry.split!r}, as the manifest says"
    return [Problem(entry.shard_name, what, "programs that load splits by shards mix them up", "error")]


def _fits(shape: Sequence[int | None] | None, said: Sequence[int | None] | None) -> bool:
    """Return whether a shard's arrays are what the manifest promises; None is any length."""
    if shape is None or said is None:
        return True
    return len(shape) == len(said) and all(b in (None, a) for a, b in zip(shape, said, strict=True))


def _repeated_keys(indexes: Sequence[ShardIndex]) -> list[Problem]:
    hashes = [_hashes(index) for index in indexes]
    if not hashes:
        return []
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    repeated = set(values[counts > 1].tolist())
    if not repeated:
        return []
    places: dict[str, list[str]] = {}
    for index, marks in zip(indexes, hashes, strict=True):
        for i in np.flatnonzero(np.isin(marks, list(repeated))).tolist():
            places.setdefault(index.packed_keys.at(i), []).append(index.shard_name)
    found = [
        Problem(names[1], f"its key is also in {names[0]}", "readers join or lose one of the samples", "error", key=key)
        for key, names in places.items()
        if len(names) > 1
    ]
    return bounded(found, "")


def _hashes(index: ShardIndex) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.fromiter(map(key_hash, index.keys()), np.uint64, index.num_samples)


def is_canonical(tar: memoryview, index: ShardIndex) -> bool:
    """Return whether headers and envelopes of a tar are, byte by byte, what the writer would have written.

    If so, names, sizes and order are proven, and so are the envelopes of arrays of constant shape:
    nothing of it needs to be parsed. False only means that it has to be parsed.
    """
    data = np.frombuffer(tar, np.uint8)
    columns = list(index.columns.values())
    if not columns or columns[-1].spec.name != METADATA_FIELD or data.nbytes != index.tar_bytes:
        return False
    keys = _keys(index)
    if keys is None or not _contiguous(index, columns):
        return False
    if data[int(index.record_offsets[-1]) :].any() or index.packed_records.at(0) != 0:
        return False
    return all(_column_is_canonical(data, column, keys) for column in columns)


def _keys(index: ShardIndex) -> Bytes | None:
    """Return the keys as rows; None when they differ in length or are not ASCII."""
    texts = index.keys()
    if not texts or len(set(map(len, texts))) != 1:
        return None
    joined = "".join(texts)
    return np.frombuffer(joined.encode(), np.uint8).reshape(len(texts), -1) if joined.isascii() else None


def _contiguous(index: ShardIndex, columns: list[ColumnIndex]) -> bool:
    records = index.record_offsets
    expected = records[:-1]
    for column in columns:
        offsets, sizes = column.payload_offsets, column.payload_sizes
        if (offsets != expected + MEMBER_BLOCK).any():
            return False
        expected = offsets + (sizes + MEMBER_BLOCK - 1) // MEMBER_BLOCK * MEMBER_BLOCK
    return bool((expected == records[1:]).all())


def _column_is_canonical(data: Bytes, column: ColumnIndex, keys: Bytes) -> bool:
    name = column.spec.name
    if "." in name or len(keys[0]) + len(name) + len(column.extension) + 2 > 100:
        return False
    template = MemberHeaders(name, column.extension)
    offsets, sizes = column.payload_offsets, column.payload_sizes
    for start in range(0, len(offsets), _STEP):
        part = slice(start, start + _STEP)
        if (_rows(data, offsets[part] - MEMBER_BLOCK, MEMBER_BLOCK) != template.many(keys[part], sizes[part])).any():
            return False
    return _envelopes_match(data, column, offsets, sizes)


def _rows(data: Bytes, offsets: Ints, length: int) -> Bytes:
    windows = np.lib.stride_tricks.as_strided(data, (len(data) - length + 1, length), (1, 1), writeable=False)
    return windows[offsets]


def _envelopes_match(data: Bytes, column: ColumnIndex, offsets: Ints, sizes: Ints) -> bool:
    if column.spec.name == METADATA_FIELD:
        return True
    around = _envelope(column)
    if around is None or column.data_offsets is None:
        return False
    before, after = (np.frombuffer(part, np.uint8) for part in around)
    length = _data_bytes(column)
    if (sizes != len(before) + length + len(after)).any() or (column.data_offsets != offsets + len(before)).any():
        return False
    matches = len(before) == 0 or bool((_rows(data, offsets, len(before)) == before).all())
    return matches and (
        len(after) == 0 or bool((_rows(data, offsets + len(before) + length, len(after)) == after).all())
    )


def _envelope(column: ColumnIndex) -> tuple[bytes, bytes] | None:
    spec = column.spec
    if spec.dtype is None or spec.shape is None or None in spec.shape or not column.codec:
        return None
    try:
        codec = codec_named(column.codec)
    except (PluginError, FormatError):
        return None
    return codec.envelope(spec.dtype, tuple(length or 0 for length in spec.shape))


def _data_bytes(column: ColumnIndex) -> int:
    count: Any = np.dtype(column.spec.dtype).itemsize
    for length in column.spec.shape or ():
        count *= length or 0
    return int(count)
