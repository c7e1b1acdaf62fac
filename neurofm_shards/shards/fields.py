"""Turning one field's values into members: header, envelope, data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from neurofm_shards._typing import AnyArray
from neurofm_shards.blocks import as_array
from neurofm_shards.errors import EncodeError
from neurofm_shards.format.headers import HeaderTemplate
from neurofm_shards.format.keys import check_extension, check_field
from neurofm_shards.plugins.choice import codec_for
from neurofm_shards.plugins.interfaces import Codec
from neurofm_shards.plugins.registry import registry
from neurofm_shards.shards.index_log import ColumnLog, Encoded, Form, IndexLog


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
        self.template = HeaderTemplate(field, check_extension(codec.extension))
        self._envelopes: dict[tuple[np.dtype[Any], tuple[int, ...]], tuple[bytes, bytes] | None] = {}
        self._forms: dict[tuple[np.dtype[Any], tuple[int, ...]], tuple[int, bytes, bytes, Form]] = {}
        self._log: ColumnLog | None = None

    def envelope(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[bytes, bytes] | None:
        """Return what the codec puts around such an array; None where it has to encode each."""
        try:
            return self._envelopes[dtype, shape]
        except KeyError:
            found = self.codec.envelope(dtype.str, shape) if dtype.kind in "biufc" else None
            self._envelopes[dtype, shape] = found
            return found

    def encode(self, value: Any) -> Encoded:
        """Return a value as bytes.

        Raises
        ------
        EncodeError
            The codec refuses the value; the message names the field.
        """
        array = value if type(value) is np.ndarray else as_array(value)
        if array is None:
            return self._by_codec(value)
        form = self._forms.get((array.dtype, array.shape))
        if form is None or not array.flags.c_contiguous:
            return self._encode_array(plain(array))
        size, before, after, where = form
        return Encoded(size, (before, array.data.cast("B"), after), len(before), where)

    def _encode_array(self, array: AnyArray) -> Encoded:
        around = self.envelope(array.dtype, array.shape)
        if around is None:
            return self._by_codec(array)
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

    def _by_codec(self, value: Any) -> Encoded:
        try:
            pieces = [memoryview(piece).cast("B") for piece in self.codec.encode(value) if len(piece)]
        except EncodeError as error:
            raise EncodeError(f"field {self.field!r}: {error}") from error
        size = sum(map(len, pieces))
        layout = self.codec.layout(memoryview(_head(pieces)), size)
        if layout is None or layout.fortran:
            return Encoded(size, pieces)
        return Encoded(size, pieces, layout.offset, (layout.dtype, layout.shape))


def _head(pieces: Sequence[memoryview]) -> bytes:
    head = bytearray()
    for piece in pieces:
        head += piece[: 512 - len(head)]
        if len(head) >= 512:
            break
    return bytes(head)


def plain(array: AnyArray) -> AnyArray:
    """Return the array in C order and little-endian, without a copy where it is so already."""
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and not np.little_endian):
        array = array.astype(array.dtype.newbyteorder("<"))
    return array


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
        kind = (field, type(value))
        try:
            return self._found[kind]
        except KeyError:
            writer = self._found[kind] = self._writer(field, value)
            return writer

    def _writer(self, field: str, value: Any) -> FieldWriter:
        check_field(field)
        named = self._codecs.get(field)
        codec = codec_for(value, self._preferred, field=field) if named is None else self._named(field, named, value)
        writer = self._writers.get((field, codec.name))
        if writer is None:
            writer = self._writers[field, codec.name] = FieldWriter(field, codec)
        return writer

    def _named(self, field: str, name: str, value: Any) -> Codec:
        codec = cast("Codec", registry().codecs.instance(name))
        if not codec.accepts(value):
            raise EncodeError(
                f"field {field!r}: codec {name!r} takes no {type(value).__name__}; choose another in codecs="
            )
        return codec
