"""Samples of one form that come one by one: what they have in common is made once, and noted in the index once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from neurofm_shards.blocks import as_array
from neurofm_shards.format.headers import MEMBER_BLOCK, HeaderTemplate, Stencil, padded
from neurofm_shards.shards.fields import FieldWriters, plain
from neurofm_shards.shards.index_log import IndexLog
from neurofm_shards.types import Buffer, Sample
from neurofm_shards.writing.records import FixedColumn, note_records, record_bytes

#: Field, type of value, dtype and shape of each array, and the length of the key.
Signature: TypeAlias = "tuple[list[tuple[str, type, np.dtype[Any], tuple[int, ...]]], int]"


#: Lengths of metadata whose headers are kept; more would be no form.
_MOST_LENGTHS = 1024


class Described(NamedTuple):
    """A sample of plain arrays: what makes it one of its form, and the arrays' bytes."""

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
    metadata : HeaderTemplate
        Makes the headers of their metadata.
    """

    def __init__(
        self, signature: Signature, columns: Sequence[FixedColumn], key: bytes, metadata: HeaderTemplate
    ) -> None:
        self.signature = signature
        self.columns = columns
        self._metadata_header = metadata
        self._before: list[Stencil] = []
        behind = b""
        for column in columns:
            self._before.append(column.writer.template.stencil(key, column.size, behind, column.before))
            behind = column.after + bytes(-column.size % MEMBER_BLOCK)
        self._behind = behind
        self._last: dict[int, Stencil] = {}

    def pieces(self, key: bytes, data: Sequence[Buffer], text: bytes) -> list[Buffer]:
        """Return a record piece by piece, to be copied before the next one is asked for."""
        total = sum(key)
        pieces: list[Buffer] = []
        for stencil, raw in zip(self._before, data, strict=True):
            pieces += (stencil.one(key, total), raw)
        last = self._last.get(len(text))
        if last is None:
            if len(self._last) >= _MOST_LENGTHS:
                self._last.clear()
            last = self._last[len(text)] = self._metadata_header.stencil(key, len(text), self._behind)
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
        """Say whether a sample belongs to this run."""
        return signature == self.form.signature and padded(len(text)) == self._padded_text

    def note(self, log: IndexLog) -> None:
        """Note in the index where everything is."""
        if self.sizes:
            note_records(log, self.form.columns, self._row, self._position, self.record, self.sizes)


def sample_form(
    signature: Signature, sample: Sample, key: bytes, fields: FieldWriters, metadata: HeaderTemplate
) -> SampleForm | None:
    """Return the form of a sample with this signature; None where a codec has to see each value."""
    columns = []
    for field, _, dtype, shape in signature[0]:
        empty = np.empty((0, *shape), dtype)
        writer = fields.of(field, sample[field])
        around = writer.envelope(dtype, shape) if plain(empty) is empty else None
        if around is None:
            return None
        columns.append(FixedColumn(writer, empty, *around))
    return SampleForm(signature, columns, key, metadata)
