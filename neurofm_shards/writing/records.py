"""Record layouts: how samples of one form become tar records, many at once, from templates of their headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import AnyArray, Bytes
from neurofm_shards.codecs.arrays import check_storable
from neurofm_shards.errors import EncodeError
from neurofm_shards.format.headers import MEMBER_BLOCK, HeaderTemplate, MemberHeaders, NumericFields, padded
from neurofm_shards.format.index import ColumnLog, Encoded, Form, IndexLog
from neurofm_shards.format.keys import METADATA_FIELD, check_extension, check_field
from neurofm_shards.format.resolve import codec_named
from neurofm_shards.limits import MAX_ARRAY_BYTES
from neurofm_shards.plugins.interfaces import Codec
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import Buffer, Sample
from neurofm_shards.values import as_array


class FieldWriter:
    """Encodes the values of one field with one codec.

    Parameters
    ----------
    field : str
        Field name.
    codec : Codec
        What encodes.
    """

    def __init__(self, field: str, codec: Codec) -> None:
        self.field = field
        self.codec = codec
        self.headers = MemberHeaders(field, check_extension(codec.extension))
        self._envelopes: dict[tuple[np.dtype[Any], tuple[int, ...]], tuple[bytes, bytes] | None] = {}
        self._forms: dict[tuple[np.dtype[Any], tuple[int, ...]], tuple[int, bytes, bytes, Form]] = {}
        self._log: ColumnLog | None = None

    def envelope(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[bytes, bytes] | None:
        """Return the codec's header and footer of such an array; None where it has to encode each."""
        try:
            return self._envelopes[dtype, shape]
        except KeyError:
            found = self._checked_envelope(dtype, shape) if dtype.kind in "biufc" else None
            self._envelopes[dtype, shape] = found
            return found

    def _checked_envelope(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[bytes, bytes] | None:
        try:
            check_storable(dtype, shape)
        except EncodeError as error:
            raise EncodeError(f"field {self.field!r}: {error}") from error
        if prod(max(length, 1) for length in shape) * dtype.itemsize > MAX_ARRAY_BYTES:
            raise EncodeError(f"field {self.field!r}: an array of shape {shape} is larger than what can be read")
        return self.codec.envelope(dtype.str, shape)

    def encode(self, value: Any) -> Encoded:
        """Return a value as bytes.

        Raises
        ------
        EncodeError
            The codec refuses the value; the message names the field.
        """
        array = value if type(value) is np.ndarray else as_array(value)
        if array is not None:
            form = self._forms.get((array.dtype, array.shape))
            if form is not None and array.flags.c_contiguous:
                size, before, after, where = form
                return Encoded(size, (before, array.data.cast("B"), after), len(before), where)
            value = array = as_stored(array)
            enveloped = self._enveloped(array)
            if enveloped is not None:
                return enveloped
        try:
            pieces = [memoryview(piece).cast("B") for piece in self.codec.encode(value) if len(piece)]
        except EncodeError as error:
            raise EncodeError(f"field {self.field!r}: {error}") from error
        size = sum(map(len, pieces))
        layout = self.codec.layout(memoryview(_head(pieces)), size)
        if layout is None or layout.fortran:
            return Encoded(size, pieces)
        return Encoded(size, pieces, layout.offset, (layout.dtype, layout.shape))

    def _enveloped(self, array: AnyArray) -> Encoded | None:
        """Return an array as bytes; None where the codec has to encode each."""
        around = self.envelope(array.dtype, array.shape)
        if around is None:
            return None
        before, after = around
        size, where = len(before) + array.nbytes + len(after), (array.dtype.str, array.shape)
        if array.size == 0:
            return Encoded(size, (before, after), len(before), where)
        self._forms[array.dtype, array.shape] = (size, before, after, where)
        return Encoded(size, (before, array.data.cast("B"), after), len(before), where)

    def log(self, log: IndexLog) -> ColumnLog:
        """Return where this writer's values are noted in the one shard it writes for."""
        if self._log is None:
            self._log = log.column(self.field, self.codec.name, self.codec.extension)
        return self._log


def _head(pieces: Sequence[memoryview]) -> bytes:
    head = bytearray()
    for piece in pieces:
        head += piece[: 512 - len(head)]
        if len(head) >= 512:
            break
    return bytes(head)


def as_stored(array: AnyArray) -> AnyArray:
    """Return the array in C order and little-endian, without a copy where it is so already."""
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and not np.little_endian):
        array = array.astype(array.dtype.newbyteorder("<"))
    return array


def _described(value: object) -> str:
    """Return a value's type, and of an array its dtype and shape."""
    array = as_array(value)
    kind = type(value).__name__
    return kind if array is None else f"{kind} of {array.dtype} and shape {array.shape}"


class FieldWriters:
    """Finds the codec for each field and type of value, once.

    Parameters
    ----------
    codec : str
        Preferred codec of arrays.
    codecs : mapping of str to str
        Codecs of single fields.
    """

    def __init__(self, codec: str, codecs: Mapping[str, str]) -> None:
        self._preferred = codec
        self._codecs = dict(codecs)
        self._found: dict[tuple[str, Any], FieldWriter] = {}
        self._writers: dict[tuple[str, str], FieldWriter] = {}
        registry().codecs.get(codec)  # an unknown name is an error now, not at the first sample

    def of(self, field: str, value: Any) -> FieldWriter:
        """Return the writer for a value of a field.

        Raises
        ------
        ConfigError
            The field's name cannot be written.
        EncodeError
            No codec takes the value.
        """
        found = self._found.get((field, type(value)))
        if found is not None:
            return found
        check_field(field)
        named = self._codecs.get(field)
        if named is None:
            codec = registry().codecs.for_value(value, self._preferred, field=field)
        else:
            codec = self._named(field, named, value)
        if (field, codec.name) not in self._writers:
            self._writers[field, codec.name] = FieldWriter(field, codec)
        found = self._found[field, type(value)] = self._writers[field, codec.name]
        return found

    def _named(self, field: str, name: str, value: Any) -> Codec:
        codec = codec_named(name)
        if not codec.accepts(value):
            raise EncodeError(
                f"field {field!r}: codec {name!r} takes no {_described(value)}; choose another in codecs="
            )
        return codec


@dataclass(frozen=True)
class FixedColumn:
    """A column of arrays of one dtype and shape, and what its codec puts around each.

    Attributes
    ----------
    writer : FieldWriter
        Field and codec.
    data : numpy.ndarray, shape (n, ...)
        The values, all of them numbers.
    before, after : bytes
        The codec's envelope.
    """

    writer: FieldWriter
    data: npt.NDArray[Any]
    before: bytes
    after: bytes

    @property
    def data_bytes(self) -> int:
        """Bytes of one array."""
        count = 1
        for length in self.data.shape[1:]:
            count *= length
        return count * self.data.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of one payload."""
        return len(self.before) + self.data_bytes + len(self.after)

    def rows(self, start: int, stop: int) -> Bytes:
        """Return the bytes of some samples' arrays, shape (stop - start, data_bytes)."""
        part = as_stored(self.data[start:stop])
        if part.size == 0:
            return np.empty((stop - start, 0), np.uint8)
        return part.reshape(stop - start, -1).view(np.uint8)


def record_bytes(columns: Sequence[FixedColumn], metadata_bytes: int) -> int:
    """Return the bytes of one sample's record."""
    return sum(MEMBER_BLOCK + padded(column.size) for column in columns) + MEMBER_BLOCK + padded(metadata_bytes)


class RecordLayout:
    """Samples whose headers and metadata are made, and whose data only have to be copied between them.

    Parameters
    ----------
    columns : sequence of FixedColumn
        The fields.
    keys : numpy.ndarray of uint8, shape (n, k)
        ASCII keys of equal length.
    start : int
        First sample in the columns.
    metadata : (MemberHeaders, numpy.ndarray of uint8 (n, m), numpy.ndarray of int64 (n,))
        What makes the metadata member's headers, the texts (zeros behind each), and their sizes.

    Attributes
    ----------
    record : int
        Bytes of each record.
    """

    def __init__(
        self,
        columns: Sequence[FixedColumn],
        keys: Bytes,
        start: int,
        metadata: tuple[MemberHeaders, Bytes, npt.NDArray[np.int64]],
    ) -> None:
        self._columns = columns
        self._start = start
        headers, texts, sizes = metadata
        self._sizes = sizes.tolist()
        self.record = record_bytes(columns, self._sizes[0])
        self._keys, self._texts = keys, texts
        key, totals = keys[0].tobytes(), keys.sum(axis=1, dtype=np.int64)
        #: What stands before each column's data, and behind the last.
        self._between: list[tuple[HeaderTemplate, NumericFields]] = []
        behind = b""
        for column in columns:
            template = column.writer.headers.template(key, column.size, behind, column.before)
            self._between.append((template, template.numeric_fields(totals)))
            behind = column.after + bytes(-column.size % MEMBER_BLOCK)
        template = headers.template(key, self._sizes[0], behind)
        same = self._sizes.count(self._sizes[0]) == len(self._sizes)
        self._between.append((template, template.numeric_fields(totals, None if same else sizes)))

    def fill(self, out: Bytes, first: int) -> None:
        """Write records, the first one being that of sample ``first``; every byte of ``out`` is written."""
        stop, at = first + len(out), 0
        data = [column.rows(self._start + first, self._start + stop) for column in self._columns]
        for (template, digits), behind in zip(self._between, [*data, self._texts[first:stop]], strict=True):
            template.many(out[:, at : (at := at + len(template))], self._keys[first:stop], digits.part(first, stop))
            out[:, at : (at := at + behind.shape[1])] = behind
        out[:, at:] = 0

    def note(self, log: IndexLog, position: int) -> None:
        """Note in the index where everything is; the first record begins at ``position``."""
        note_records(log, self._columns, len(log.keys), position, self.record, self._sizes)


def note_records(
    log: IndexLog, columns: Sequence[FixedColumn], row: int, position: int, record: int, sizes: Sequence[int]
) -> None:
    """Note consecutive records of one length in the index.

    Parameters
    ----------
    log : IndexLog
        The index.
    columns : sequence of FixedColumn
        The fields.
    row, position : int
        Number of the first sample, and where its record begins.
    record : int
        Bytes of each record.
    sizes : sequence of int
        Bytes of each sample's metadata.
    """
    at, end = position + MEMBER_BLOCK, record * len(sizes)
    for column in columns:
        form = (column.data.dtype.newbyteorder("<").str, column.data.shape[1:])
        logged = log.column(column.writer.field, column.writer.codec.name, column.writer.codec.extension)
        logged.add_many(row, range(at, at + end, record), [column.size] * len(sizes), len(column.before), form)
        at += padded(column.size) + MEMBER_BLOCK
    log.column(METADATA_FIELD, "json", "json").add_many(row, range(at, at + end, record), sizes, -1, None)
    log.records.extend(range(position, position + end, record))


#: Field, type of value, dtype and shape of each array, and the length of the key.
Signature: TypeAlias = "tuple[list[tuple[str, type, np.dtype[Any], tuple[int, ...]]], int]"


#: Lengths of metadata whose headers are kept; more would be no form.
_MOST_LENGTHS = 1024


class Described(NamedTuple):
    """A sample of arrays of numbers: what makes it one of its form, and the arrays' bytes."""

    signature: Signature
    data: list[Buffer]


def described(sample: Sample, key: bytes) -> Described | None:
    """Describe a sample; None where one of its values is no array of numbers in C order."""
    form: list[tuple[str, type, np.dtype[Any], tuple[int, ...]]] = []
    data: list[Buffer] = []
    for field, value in sample.items():
        array = value if type(value) is np.ndarray else as_array(value)
        if array is None or not array.flags.c_contiguous or array.dtype.kind not in "biufc":
            return None
        form.append((field, type(value), array.dtype, array.shape))
        data.append(array.data.cast("B") if array.size else b"")
    return Described((form, len(key)), data)


class SampleForm:
    """What all samples of a form have in common.

    Parameters
    ----------
    signature : Signature
        What makes a sample one of them.
    columns : sequence of FixedColumn
        Their fields.
    key : bytes
        The key of one of them.
    metadata : MemberHeaders
        Makes the headers of their metadata.
    """

    def __init__(
        self, signature: Signature, columns: Sequence[FixedColumn], key: bytes, metadata: MemberHeaders
    ) -> None:
        self.signature = signature
        self.columns = columns
        self._metadata_header = metadata
        self._before: list[HeaderTemplate] = []
        behind = b""
        for column in columns:
            self._before.append(column.writer.headers.template(key, column.size, behind, column.before))
            behind = column.after + bytes(-column.size % MEMBER_BLOCK)
        self._behind = behind
        self._last: dict[int, HeaderTemplate] = {}

    def pieces(self, key: bytes, data: Sequence[Buffer], text: bytes) -> list[Buffer]:
        """Return a record piece by piece, to be copied before the next one is asked for."""
        total = sum(key)
        pieces: list[Buffer] = []
        for template, raw in zip(self._before, data, strict=True):
            pieces += (template.one(key, total), raw)
        last = self._last.get(len(text))
        if last is None:
            if len(self._last) >= _MOST_LENGTHS:
                self._last.clear()
            last = self._last[len(text)] = self._metadata_header.template(key, len(text), self._behind)
        pieces += (last.one(key, total), text, bytes(-len(text) % MEMBER_BLOCK))
        return pieces


class SampleRun:
    """Consecutive samples of one form whose records have one length.

    Parameters
    ----------
    form : SampleForm
        Their form.
    row, position : int
        Number of the first one in the shard, and where its record begins.
    padded_text : int
        Bytes of their metadata, up to whole blocks.
    """

    def __init__(self, form: SampleForm, row: int, position: int, padded_text: int) -> None:
        self.form = form
        self.record = record_bytes(form.columns, padded_text)
        self._row = row
        self._position = position
        self._padded_text = padded_text
        #: Bytes of each sample's metadata.
        self.sizes: list[int] = []

    def takes(self, signature: Signature, text: bytes) -> bool:
        """Return whether a sample belongs to this run."""
        return signature == self.form.signature and padded(len(text)) == self._padded_text

    def note(self, log: IndexLog) -> None:
        """Note in the index where everything is."""
        if self.sizes:
            note_records(log, self.form.columns, self._row, self._position, self.record, self.sizes)


def sample_form(
    signature: Signature, sample: Sample, key: bytes, fields: FieldWriters, metadata: MemberHeaders
) -> SampleForm | None:
    """Return the form of a sample with this signature; None where a codec has to see each value."""
    columns = []
    for field, _, dtype, shape in signature[0]:
        empty = np.empty((0, *shape), dtype)
        writer = fields.of(field, sample[field])
        around = writer.envelope(dtype, shape) if as_stored(empty) is empty else None
        if around is None:
            return None
        columns.append(FixedColumn(writer, empty, *around))
    return SampleForm(signature, columns, key, metadata)
