"""Distributions that strangers might publish, written from docs/PLUGIN_TUTORIAL.md alone."""

from __future__ import annotations

import textwrap
from pathlib import Path

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "{version}"
dependencies = ["neurofm-shards"]
[project.entry-points."neurofm_shards.v1"]
main = "{module}"
[tool.hatch.build.targets.wheel]
packages = ["{module}"]
"""

#: A source, a codec, a compression and a transform.
FULL = '''
"""Everything a stranger might add."""
import io
import json
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from neurofm_shards import hookimpl
from neurofm_shards.errors import EncodeError, FormatError, SourceError
from neurofm_shards.plugins.config import PluginConfig
from neurofm_shards.plugins.entries import CodecEntry, CompressionEntry, SourceEntry, TransformEntry
from neurofm_shards.plugins.interfaces import Codec, Compression, SampleSequence, Source, Transform
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.types import ColumnSpec, SourcePlan
from pydantic import Field


class Stamp:
    def __init__(self, text):
        self.text = text

    def __eq__(self, other):
        return isinstance(other, Stamp) and other.text == self.text

    def __hash__(self):
        return hash(self.text)


class StampCodec(Codec):
    name = "stamp"
    extension = "stamp"

    def accepts(self, value):
        return isinstance(value, Stamp)

    def encode(self, value):
        if not isinstance(value, Stamp):
            raise EncodeError("a stamp codec stores stamps")
        return [value.text.encode()]

    def decode(self, payload):
        try:
            return Stamp(bytes(payload).decode())
        except UnicodeDecodeError as error:
            raise FormatError("a .stamp member is not UTF-8") from error


class DeflateConfig(PluginConfig):
    kind: Literal["deflate"] = "deflate"
    level: int = Field(6, ge=1, le=9, description="how hard to try")


class Deflate(Compression):
    name = "deflate"
    suffix = ".zz"
    magic = b"\\x78"

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
        return Inflated(file)


class Inflated(io.RawIOBase):
    def __init__(self, file):
        self.file, self.decoder, self.rest, self.begun = file, zlib.decompressobj(), b"", False

    def readable(self):
        return True

    def readinto(self, out):
        while len(out):
            if self.decoder.eof:
                self.rest, self.decoder, self.begun = self.decoder.unused_data, zlib.decompressobj(), False
            data = self.decoder.unconsumed_tail or self.rest
            self.rest = b""
            try:
                part = self.decoder.decompress(data, len(out)) if data or self.begun else b""
                if not part and not data and not self.decoder.eof:
                    data = self.file.read(1 << 16)
                    if not data:
                        if self.begun:
                            raise FormatError("the stream ends in the middle of a frame")
                        return 0
                    self.begun = True
                    part = self.decoder.decompress(data, len(out))
            except zlib.error as error:
                raise FormatError(f"damaged stream: {error}") from error
            self.begun = self.begun or bool(data)
            if part:
                out[: len(part)] = part
                return len(part)
        return 0


class ScaleConfig(PluginConfig):
    kind: Literal["scale"] = "scale"
    factor: float = Field(2.0, description="what to multiply by")


class Scale(Transform):
    def __init__(self, config):
        self.factor = config.factor

    def __call__(self, sample, metadata):
        return {**sample, "x": sample["x"] * np.float32(self.factor)}


class LinesConfig(PluginConfig):
    kind: Literal["lines"] = "lines"
    offset: float = Field(0.0, description="added to every value")


class Lines(SampleSequence):
    def __init__(self, path, offset):
        try:
            rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
            self.rows = [{"x": np.asarray(row["x"], np.float32), "label": str(row["label"])} for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{path} cannot be read as JSON lines: {error}") from error
        if not self.rows:
            raise SourceError(f"{path} holds no lines")
        self.path, self.offset = path, offset

    def plan(self):
        return SourcePlan(
            num_samples=len(self.rows),
            columns=(ColumnSpec("x", "<f4", (len(self.rows[0]["x"]),)),),
            fingerprint=file_fingerprint([self.path]),
        )

    def sample(self, i):
        row = self.rows[i]
        return {"x": np.asarray(row["x"], np.float32) + np.float32(self.offset)}, {"label": row["label"]}


class LinesSource(Source):
    def __init__(self, config):
        self.offset = config.offset

    def open(self, paths):
        return Lines(paths[0], self.offset)


@hookimpl
def neurofm_register_sources():
    return [
        SourceEntry(
            name="lines", summary="JSON lines", factory=f"{__name__}:LinesSource", config=f"{__name__}:LinesConfig",
            suffixes=(".jsonl",),
        )
    ]


@hookimpl
def neurofm_register_codecs():
    return [CodecEntry(name="stamp", summary="stamps", factory=f"{__name__}:StampCodec", extension="stamp")]


@hookimpl
def neurofm_register_compressions():
    return [
        CompressionEntry(
            name="deflate", summary="zlib", factory=f"{__name__}:Deflate", config=f"{__name__}:DeflateConfig",
            suffix=".zz", magic=b"\\x78",
        )
    ]


@hookimpl
def neurofm_register_transforms():
    return [
        TransformEntry(
            name="scale", summary="multiply", factory=f"{__name__}:Scale", config=f"{__name__}:ScaleConfig"
        )
    ]
'''

#: Another provider of the source called ``nwb``.
RIVAL_NWB = '''
"""Reads "NWB" files that are really text: one spike time per line."""
import numpy as np
from neurofm_shards import hookimpl
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.recordings import EventStream, Recording


class TextRecording(Recording):
    def __init__(self, path):
        self.session_id = self.source_file = path.rpartition("/")[2]
        self.subject_id = "rival"
        self.facts, self.problems = {"reader": "rival"}, ()
        self.fingerprint = file_fingerprint([path])
        self.times = np.loadtxt(path)

    @property
    def streams(self):
        owner = np.zeros(len(self.times), np.int64)
        return [EventStream(path="units", modality="spikes", read=lambda: (self.times, owner), owners=("0",))]

    def close(self):
        pass


class RivalSource(Source):
    def open(self, paths):
        return TextRecording(paths[0])


@hookimpl
def neurofm_register_sources():
    return [SourceEntry(name="nwb", summary="a rival", factory=f"{__name__}:RivalSource", suffixes=(".nwb",))]
'''

BROKEN = "raise RuntimeError('this wheel is broken')\n"

CONFORMANCE = """
import numpy as np
from neurofm_shards.testing import CodecConformance, CompressionConformance, SourceConformance, TransformConformance
from stranger_full import Stamp


class TestStamp(CodecConformance):
    name = "stamp"
    values = (Stamp(""), Stamp("day 1"), Stamp("\\u00e9"))
    refused = (1.5, "text")

    def equal(self, stored, loaded):
        return stored == loaded


class TestDeflate(CompressionConformance):
    name = "deflate"


class TestScale(TransformConformance):
    name = "scale"
    options = {"factor": 3.0}
    samples = ({"x": np.arange(4, dtype="f4")}, {"x": np.ones(4, "f4")})


class TestLines(SourceConformance):
    name = "lines"
    options = {"offset": 1.0}

    def make_input(self, folder):
        path = folder / "rows.jsonl"
        path.write_text("\\n".join('{"x": [%d, 2, 3], "label": "r%d"}' % (i, i) for i in range(20)))
        return [path]
"""


def write_distribution(folder: Path, name: str, code: str, version: str = "2.3.4") -> Path:
    """Write a distribution of one package; return its folder."""
    module = name.replace("-", "_")
    root = folder / name
    (root / module).mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT.format(name=name, version=version, module=module))
    (root / module / "__init__.py").write_text(textwrap.dedent(code))
    return root
