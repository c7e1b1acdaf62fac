"""Checking one shard from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash

from neurofm_shards.errors import FormatError, NeurofmShardsError
from neurofm_shards.format.canonical import is_canonical
from neurofm_shards.format.index import ShardIndex
from neurofm_shards.format.index_io import index_path, read_index
from neurofm_shards.format.keys import KEY_BYTES, METADATA_FIELD, check_key
from neurofm_shards.format.tar import Member, TarReader
from neurofm_shards.shards.fingerprints import shard_fingerprint
from neurofm_shards.shards.index_builder import build_index, codec_by_extension, file_size, opened_tar
from neurofm_shards.shards.metadata_members import metadata_of_shard
from neurofm_shards.shards.report import Finding
from neurofm_shards.writing.sample_metadata import AUTOMATIC

#: Larger payloads are hashed but not decoded.
MAX_DECODED_BYTES = 1 << 30
#: Extensions that other readers take for images, sounds or something else.
_MISREAD = frozenset({"h5", "raw", "mat5", "fits", "pickle", "pkl", "pt", "pth"})


@dataclass
class ShardCheck:
    """The check of one shard.

    Attributes
    ----------
    path : Path
        The shard.
    findings : list of Finding
        What was found.
    index : ShardIndex or None
        What the shard really holds; None when it cannot be read.
    """

    path: Path
    findings: list[Finding] = field(default_factory=list)
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
        self.findings.append(Finding(severity, self.path.name, key, what, consequence))

    def _stored_index(self) -> ShardIndex | None:
        try:
            return read_index(index_path(self.path), self.path.name, file_size(self.path), shard_fingerprint(self.path))
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
                self._add("info", "", what, "batches get lists with gaps; Hugging Face datasets may drop the field")

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
