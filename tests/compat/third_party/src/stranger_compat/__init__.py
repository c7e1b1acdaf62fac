"""A plugin as others wrote it for release 0.1.0: a source, a codec, a compression and a transform."""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from neurofm_shards import hookimpl
from neurofm_shards.errors import EncodeError, FormatError, SourceError
from neurofm_shards.plugins.config import PluginConfig
from neurofm_shards.plugins.entries import CodecEntry, CompressionEntry, SourceEntry, TransformEntry
from neurofm_shards.plugins.interfaces import Codec, Compression, SampleSequence, Source, Transform
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.types import ColumnSpec, SourcePlan


class Stamp:
    """A text that is no text to JSON."""

    def __init__(self, text):
        self.text = text


class StampCodec(Codec):
    """Stores stamps as UTF-8."""

    name = "stamp"
    extension = "stamp"

    def accepts(self, value):
        return isinstance(value, Stamp)

    def encode(self, value):
        if not isinstance(value, Stamp):
            raise EncodeError("a stamp codec stores stamps")
        return [value.text.encode()]

    def decode(self, payload):
        return Stamp(bytes(payload).decode())


class DeflateConfig(PluginConfig):
    """Options of the compression."""

    kind: Literal["deflate"] = "deflate"
    level: int = Field(6, ge=1, le=9, description="how hard to try")


class Deflate(Compression):
    """One zlib stream per frame."""

    name = "deflate"
    suffix = ".zz"
    magic = b"\x78"

    def __init__(self, config=None):
        self.level = config.level if config else 6

    def compress_frame(self, raw):
        return zlib.compress(raw, self.level)

    def decompress_frame(self, data, out):
        decoder = zlib.decompressobj()
        try:
            raw = decoder.decompress(data, len(out) + 1)
        except zlib.error as error:
            raise FormatError(f"damaged frame: {error}") from error
        if len(raw) != len(out) or not decoder.eof or decoder.unused_data:
            raise FormatError("a frame is not of the promised size")
        out[:] = raw

    def open(self, file):
        data, parts = file.read(), []
        while data:
            decoder = zlib.decompressobj()
            parts.append(decoder.decompress(data))
            data = decoder.unused_data
        return io.BytesIO(b"".join(parts))


class ScaleConfig(PluginConfig):
    """Options of the transform."""

    kind: Literal["scale"] = "scale"
    factor: float = Field(2.0, description="what to multiply by")


class Scale(Transform):
    """Multiplies the column ``x``; changes whole blocks, and said so as release 0.1.0 asked."""

    vectorized = True

    def __init__(self, config):
        self.factor = np.float32(config.factor)

    def __call__(self, sample, metadata):
        return {**sample, "x": sample["x"] * self.factor}

    def apply_block(self, block):
        return replace(block, columns={**block.columns, "x": block.columns["x"] * self.factor})


class LinesConfig(PluginConfig):
    """Options of the source."""

    kind: Literal["lines"] = "lines"
    offset: float = Field(0.0, description="added to every value")


class Lines(SampleSequence):
    """One file of JSON lines."""

    def __init__(self, path, offset):
        try:
            self.rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise SourceError(f"{path} cannot be read as JSON lines: {error}") from error
        self.path, self.offset = path, np.float32(offset)

    def plan(self):
        shape = (len(self.rows[0]["x"]),)
        return SourcePlan(
            num_samples=len(self.rows),
            columns=(ColumnSpec("x", "<f4", shape),),
            fingerprint=file_fingerprint([self.path]),
            metadata={"session_id": Path(self.path).stem},
            tables={"labels": [{"id": row["label"]} for row in self.rows]},
        )

    def sample(self, i):
        row = self.rows[i]
        return {"x": np.asarray(row["x"], np.float32) + self.offset}, {"label": row["label"]}


class LinesSource(Source):
    """Opens files of JSON lines."""

    def __init__(self, config):
        self.offset = config.offset

    def open(self, paths):
        return Lines(paths[0], self.offset)

    def write_example(self, path, *, seconds, seed):
        Path(path).write_text(json.dumps({"x": [seconds, seed], "label": "example"}), encoding="utf-8")


@hookimpl
def neurofm_register_sources():
    factory, config = f"{__name__}:LinesSource", f"{__name__}:LinesConfig"
    return [SourceEntry(name="lines", summary="JSON lines", factory=factory, config=config, suffixes=(".jsonl",))]


@hookimpl
def neurofm_register_codecs():
    return [CodecEntry(name="stamp", summary="stamps", factory=f"{__name__}:StampCodec", extension="stamp")]


@hookimpl
def neurofm_register_compressions():
    factory, config = f"{__name__}:Deflate", f"{__name__}:DeflateConfig"
    entry = {"factory": factory, "config": config, "suffix": ".zz", "magic": b"\x78"}
    return [CompressionEntry(name="deflate", summary="zlib", **entry)]


@hookimpl
def neurofm_register_transforms():
    return [
        TransformEntry(name="scale", summary="multiply", factory=f"{__name__}:Scale", config=f"{__name__}:ScaleConfig")
    ]
