"""Write one shard in one pass: make records, hash and write them, and keep an index and a metadata table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._wording import counted
from neurofm_shards.blocks import MISSING
from neurofm_shards.errors import ConfigError, EncodeError
from neurofm_shards.format.dataset_record import ShardRecord, metadata_part, shard_record
from neurofm_shards.format.files import SIDECAR_DIR, Folder, partial_name
from neurofm_shards.format.headers import END_OF_ARCHIVE, MEMBER_BLOCK, MemberHeaders, padded
from neurofm_shards.format.index import Encoded, IndexLog, shard_checksum
from neurofm_shards.format.index_io import fingerprint_of, save_index
from neurofm_shards.format.keys import METADATA_FIELD, SampleKeys, automatic_keys, named_keys, one_automatic_key
from neurofm_shards.format.metadata_table import save_part, split_of_part
from neurofm_shards.format.resolve import compression_object
from neurofm_shards.format.sidecar import pack_strings, sidecar_names, sidecar_paths
from neurofm_shards.limits import MAX_METADATA_BYTES
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.types import Block, Buffer, ColumnData, ColumnSpec, Metadata, Sample
from neurofm_shards.writing.records import (
    Described,
    FieldWriters,
    FixedColumn,
    RecordLayout,
    SampleForm,
    SampleRun,
    Signature,
    described,
    record_bytes,
    sample_form,
)
from neurofm_shards.writing.sample_metadata import MetadataRun, MetadataTemplate, OwnMetadata, encode_all, encode_own
from neurofm_shards.writing.sinks import BackgroundSink, CompressedSink, FileSink, RecordBuffer, Sink

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

#: Making records of fewer samples than this at once is not worth the calls.
_FEW = 4
#: Headers of this many samples are made at once.
_MANY = 512


class ShardContent:
    """The samples of one shard, made into records and hashed, on their way to a sink.

    ``write_sample`` and ``write_block`` give the same bytes for the same samples.

    Parameters
    ----------
    sink : Sink
        Takes the bytes.
    name : str
        File name of the shard, for messages.
    shard_idx : int
        Its number.
    codec, codecs, first_idx
        See :class:`ShardWriter`.
    """

    def __init__(
        self,
        sink: Sink,
        name: str,
        shard_idx: int,
        *,
        codec: str = "pyd",
        codecs: Mapping[str, str] | None = None,
        first_idx: int = 1,
    ) -> None:
        self.name = name
        self.shard_idx = shard_idx
        self.first_idx = first_idx
        self._fields = FieldWriters(codec, codecs or {})
        self._metadata_header = MemberHeaders(METADATA_FIELD, "json")
        self._templates: dict[tuple[str, ...], MetadataTemplate] = {}
        self._log = IndexLog()
        self._metadata_log = self._log.column(METADATA_FIELD, "json", "json")
        self._ids: list[str] = []
        self._own: list[bytes] = []
        self._seen: set[str] = set()
        self._first_metadata = b""
        self._sink = sink
        self._records = RecordBuffer(sink)
        self._run: SampleRun | None = None
        self._form: SampleForm | None = None
        self._last_signature: Signature | None = None
        self._open = True

    @property
    def num_samples(self) -> int:
        """Samples so far."""
        return len(self._log.keys)

    @property
    def digests(self) -> list[int]:
        """The digests of their records."""
        return self._log.digests

    def write_sample(self, key: str | int | None, sample: Sample, metadata: Metadata | None = None) -> str:
        """Write one sample; return its key.

        Parameters
        ----------
        key : str, int or None
            The sample's id, any text; None for an automatic key.
        sample : dict
            Field name to value.
        metadata : dict, optional
            What else is said of it: JSON values and numpy scalars.

        Raises
        ------
        ConfigError
            A name cannot be written, or the key was used before.
        EncodeError
            A value cannot be stored. Nothing of the sample was written; the next one may be.
        """
        self._check_open()
        keys = one_automatic_key(self._next()) if key is None else named_keys([key])
        self._check_new(keys.keys)
        own = encode_own(metadata or {}, keys.keys[0])
        self._write_one(keys, 0, sample, own)
        self._seen.update(keys.keys)
        return keys.keys[0]

    def write_block(self, block: Block, numbers: npt.NDArray[np.int64] | None = None) -> list[str]:
        """Write many samples; return their keys.

        Parameters
        ----------
        block : Block
            The samples. Arrays of constant shape become records without a Python loop over samples.
        numbers : numpy.ndarray of int64, shape (n,), optional
            Numbers of the automatic keys; consecutive by default.

        Raises
        ------
        ConfigError
            A name cannot be written, a key was used before, or columns differ in length.
        EncodeError
            A value cannot be stored; the samples before it were written.
        """
        self._check_open()
        n = len(block)
        _check_lengths(block)
        if n == 0:
            return []
        if block.keys is not None:
            keys = named_keys(block.keys)
        else:
            keys = automatic_keys(np.arange(n, dtype=np.int64) + self._next() if numbers is None else numbers)
        self._check_new(keys.keys)
        own = encode_all(block.metadata, keys.keys)
        columns = self._fixed_columns(block)
        start = 0
        while start < n:
            start += self._write_some(block, keys, own, columns, start)
        self._seen.update(keys.keys)
        return keys.keys

    def checksum(self) -> str:
        """End the content; return the checksum of a shard that holds it."""
        end = self._end()
        return shard_checksum(np.array(self._log.digests, np.uint64), self._records.position - end)

    def _end(self) -> int:
        """Put the end of the archive behind the records; return where they end."""
        self._end_run()
        end = self._records.position
        self._records.finish(END_OF_ARCHIVE)
        return end

    def _next(self) -> int:
        return self.first_idx + len(self._log.keys)

    def _check_open(self) -> None:
        if not self._open:
            raise ConfigError(f"shard {self.name} is closed: nothing more can be written to it")

    def _check_new(self, keys: Sequence[str]) -> None:
        fresh = set(keys)
        if len(fresh) < len(keys) or not fresh.isdisjoint(self._seen):
            known = set(self._seen)
            for key in keys:
                if key in known:
                    raise ConfigError(f"key {key!r} comes twice in shard {self.name}: sample ids must be unique")
                known.add(key)

    def _fixed_columns(self, block: Block) -> list[FixedColumn] | None:
        """Return all columns as what can be written at once; None where a codec has to see each value of one."""
        columns = []
        for name, data in block.columns.items():
            if not isinstance(data, np.ndarray) or data.dtype.kind not in "biufc":
                return None
            writer = self._fields.of(name, data)
            around = writer.envelope(data.dtype.newbyteorder("<"), data.shape[1:])
            if around is None:
                return None
            columns.append(FixedColumn(writer, data, *around))
        return columns

    def _write_some(
        self, block: Block, keys: SampleKeys, own: OwnMetadata, columns: list[FixedColumn] | None, start: int
    ) -> int:
        """Write as many samples at once as have one length of record; return how many."""
        if columns is not None and keys.same_length:
            run = self._template(block.columns).run(keys, own, start, self.num_samples, _MANY)
            if run.count >= _FEW and self._records.room(record_bytes(columns, run.padded_bytes)):
                self._write_run(columns, keys, own, start, run)
                return run.count
        sample = {name: value for name, data in block.columns.items() if (value := _value(data, start)) is not MISSING}
        self._write_one(keys, start, sample, own.texts[start])
        return 1

    def _write_run(
        self, columns: list[FixedColumn], keys: SampleKeys, own: OwnMetadata, start: int, run: MetadataRun
    ) -> None:
        self._end_run()
        texts, sizes = run.texts()
        stop = start + run.count
        layout = RecordLayout(columns, keys.matrix(start, stop), start, (self._metadata_header, texts, sizes))
        layout.note(self._log, self._records.position)
        done = 0
        while done < run.count:
            count = min(run.count - done, self._records.room(layout.record))
            layout.fill(self._records.reserve(count, layout.record), done)
            self._log.digests.extend(self._records.commit(count, layout.record))
            done += count
        self._remember(keys, start, run.count, own.texts[start:stop], texts[0, : int(sizes[0])].tobytes())

    def _remember(self, keys: SampleKeys, start: int, count: int, own: Sequence[bytes], metadata: bytes) -> None:
        self._first_metadata = self._first_metadata or metadata
        self._log.keys.extend(keys.keys[start : start + count])
        self._ids.extend(keys.ids[start : start + count])
        self._own.extend(own)

    def _template(self, fields: Mapping[str, Any]) -> MetadataTemplate:
        names = tuple(fields)
        template = self._templates.get(names)
        if template is None:
            template = self._templates[names] = MetadataTemplate(names, self.shard_idx)
        return template

    def _write_one(self, keys: SampleKeys, i: int, sample: Sample, own: bytes) -> None:
        text = self._template(sample).one(keys.ids[i], self.num_samples, own)
        key = keys.keys[i].encode()
        try:
            form = self._append(key, sample, text)
        except EncodeError as error:
            raise EncodeError(f"sample {keys.ids[i]!r}: {error}") from error
        self._remember(keys, i, 1, (own,), text)
        if self._run is None and form is not None:
            self._begin_run(form.signature, sample, key, padded(len(text)))

    def _append(self, key: bytes, sample: Sample, text: bytes) -> Described | None:
        """Put a sample behind the others, with those of its form; return that (raises EncodeError)."""
        if len(text) > MAX_METADATA_BYTES:
            raise EncodeError(
                f"its metadata would have {len(text):,} bytes, and {MAX_METADATA_BYTES:,} are read; give what is large "
                "a field of its own"
            )
        form = described(sample, key)
        run = self._run
        if form is not None and run is not None and run.takes(form.signature, text):
            digest = self._records.append(run.form.pieces(key, form.data, text), run.record)
            run.sizes.append(len(text))
        else:
            digest = self._write_alone(key, sample, text)
        self._log.digests.append(digest)
        return form

    def _write_alone(self, key: bytes, sample: Sample, text: bytes) -> int:
        """Write a sample of any form; return the digest of its record."""
        self._end_run()
        cells = [(writer := self._fields.of(field, value), writer.encode(value)) for field, value in sample.items()]
        position, row = self._records.position, self.num_samples
        pieces: list[Buffer] = []
        at = position
        places = []
        for writer, encoded in cells:
            places.append(at + MEMBER_BLOCK)
            padding = bytes(-encoded.size % MEMBER_BLOCK)
            pieces += (writer.headers.one(key, encoded.size), *encoded.pieces, padding)
            at += MEMBER_BLOCK + encoded.size + len(padding)
        padding = bytes(-len(text) % MEMBER_BLOCK)
        pieces += (self._metadata_header.one(key, len(text)), text, padding)
        at += MEMBER_BLOCK
        digest = self._records.append(pieces, at + len(text) + len(padding) - position)
        for (writer, encoded), place in zip(cells, places, strict=True):
            writer.log(self._log).add(row, place, encoded)
        self._metadata_log.add(row, at, Encoded(len(text), ()))
        self._log.records.append(position)
        return digest

    def _begin_run(self, signature: Signature, sample: Sample, key: bytes, padded_text: int) -> None:
        """Expect more samples of a form, from its second one in a row on."""
        if self._form is None or self._form.signature != signature:
            if signature == self._last_signature:
                self._form = sample_form(signature, sample, key, self._fields, self._metadata_header)
            self._last_signature = signature
        if self._form is not None and self._form.signature == signature:
            self._run = SampleRun(self._form, self.num_samples, self._records.position, padded_text)

    def _end_run(self) -> None:
        """Put what was noted of a run into the index, in which nothing else may come first."""
        if self._run is not None:
            self._run.note(self._log)
            self._run = None


class ShardWriter(ShardContent):
    """Writes one shard.

    The file grows under a hidden temporary name and appears, with its sidecars, only when :meth:`close` succeeds.

    Parameters
    ----------
    path : path-like
        The shard's final path.
    shard_idx : int
        Its number.
    codec : str
        Preferred codec of arrays.
    codecs : mapping of str to str, optional
        Codecs of single fields.
    compression : str, dict or Compression
        Name, configuration or object; ``"none"`` for plain tar.
    durable : bool
        Whether to sync the files and their folders.
    first_idx : int
        Number of the first automatic key.
    specs : mapping of str to ColumnSpec, optional
        Units and side tables of columns.
    overlap : bool
        Whether a thread writes while the next records are made.
    threads : int, optional
        Frames that are compressed at once.
    mode : int, optional
        Permission bits of the shard and its sidecars; by default what the process gives new files.
    """

    def __init__(
        self,
        path: Path | str,
        shard_idx: int,
        *,
        codec: str = "pyd",
        codecs: Mapping[str, str] | None = None,
        compression: str | Mapping[str, Any] | Compression = "none",
        durable: bool = False,
        first_idx: int = 1,
        specs: Mapping[str, ColumnSpec] | None = None,
        overlap: bool = True,
        threads: int | None = None,
        mode: int | None = None,
    ) -> None:
        self.path = Path(path)
        self._mode = mode
        self._durable = durable
        self._specs = dict(specs or {})
        self._partial = partial_name(self.path.name)
        self._folder = Folder.open(self.path.parent, create=True)
        descriptor = self._folder.create_file(self._partial, mode)
        sink = _sink(descriptor, compression, overlap=overlap, threads=threads)
        super().__init__(sink, self.path.name, shard_idx, codec=codec, codecs=codecs, first_idx=first_idx)

    def close(self) -> ShardRecord:
        """Finish the shard and give it its name.

        Raises
        ------
        ConfigError
            It holds no sample: empty shards break readers.
        """
        self._check_open()
        if not self._log.keys:
            raise ConfigError(f"shard {self.path.name} holds no samples; give it up with abort()")
        try:
            return self._finish()
        except BaseException:
            self._give_up_sidecars()
            self.abort()
            raise

    def abort(self) -> None:
        """Give the shard up; nothing of it is left. Harmless after ``close``."""
        if self._open:
            self._open = False
            self._sink.abort()
            self._folder.remove(self._partial)
            self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._open:
            self.close()
        else:
            self.abort()

    def _finish(self) -> ShardRecord:
        end = self._end()
        frames = self._sink.finish()
        with ThreadPoolExecutor(1, "shard-sync") as beside:
            closed = beside.submit(self._sink.close, durable=self._durable)
            index = self._log.finish(end, self._specs, frames=frames, **self._file_facts())
            ids = index.packed_keys if self._ids == self._log.keys else pack_strings(self._ids)
            table = metadata_part(ids, self.shard_idx, self._own)
            split = split_of_part(table)
            record = shard_record(index, self.shard_idx, self._first_metadata, self._log.columns(), split)
            index_file, table_file = sidecar_paths(self.path)
            self._folder.child(SIDECAR_DIR, create=True).close()
            save_index(index, index_file, durable=self._durable, mode=self._mode)
            save_part(table, index.fingerprint, table_file, durable=self._durable, mode=self._mode)
            closed.result()
        self._folder.move(self._partial, self._folder, self.path.name)
        self._open = False
        if self._durable:
            self._folder.sync()
        self._folder.close()
        return record

    def _file_facts(self) -> dict[str, Any]:
        descriptor = self._folder.open_file(self._partial)
        try:
            return {
                "shard_name": self.path.name,
                "shard_bytes": os.fstat(descriptor).st_size,
                "tar_bytes": self._records.position,
                "fingerprint": fingerprint_of(descriptor),
            }
        finally:
            os.close(descriptor)

    def _give_up_sidecars(self) -> None:
        if self._open and self._folder.has_folder(SIDECAR_DIR):
            with self._folder.child(SIDECAR_DIR) as sidecars:
                for name in sidecar_names(self.path.name):
                    sidecars.remove(name)


def _sink(
    descriptor: int, compression: str | Mapping[str, Any] | Compression, *, overlap: bool, threads: int | None
) -> Sink:
    found = compression_object(compression)
    if found is not None:
        return CompressedSink(descriptor, found, threads)
    sink = FileSink(descriptor)
    return BackgroundSink(sink) if overlap else sink


def _value(data: ColumnData, i: int) -> Any:
    if isinstance(data, np.ndarray):
        return data[i, ...] if data.dtype.kind in "biufc" else data[i]
    return data[i]


def _check_lengths(block: Block) -> None:
    n = len(block)
    lengths = {name: len(data) for name, data in block.columns.items()}
    if block.keys is not None:
        lengths["(keys)"] = len(block.keys)
    wrong = {name: length for name, length in lengths.items() if length != n}
    if wrong:
        raise ConfigError(
            f"a block has metadata for {counted(n, 'sample')}, but {wrong}: all must have the same length"
        )
