"""The manifest: what a data set consists of. Written last; what it does not name does not exist.

Nothing in it depends on the clock, the host, a folder or the number of workers.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from neurofm_shards.codecs.arrays import plain_dtype
from neurofm_shards.errors import FormatError
from neurofm_shards.types import ColumnSpec

MANIFEST_NAME = "dataset_metadata.json"
SIDECAR_DIR = ".neurofm"
FORMAT_VERSION = 1
MAX_COUNT = 1 << 53

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")
_TABLE_FILE = re.compile(r"\.neurofm/(?:[A-Za-z0-9_][A-Za-z0-9_+-]*/)?[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")


def plain_file_name(name: str) -> str:
    """Return the name when it is that of a file in the data set's own folder; ValueError otherwise."""
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


def _table_file(name: str) -> str:
    if not _TABLE_FILE.fullmatch(name):
        raise ValueError(f"{name!r} is not a file in the folder {SIDECAR_DIR}")
    return name


def _number_type(dtype: str) -> str:
    try:
        plain_dtype(dtype)
    except FormatError as error:
        raise ValueError(str(error)) from error
    return dtype


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
#: A plain name, or none: it appears in messages that say what to install.
Distribution = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,199}|\([a-z]+\)|)$")]
DType = Annotated[str, AfterValidator(_number_type)]
FileName = Annotated[str, AfterValidator(plain_file_name)]


class FrozenModel(BaseModel):
    """Frozen, closed, and strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShardEntry(FrozenModel):
    """One shard.

    Attributes
    ----------
    shard_name : str
        File name.
    shard_idx : int
        Its number.
    num_samples : int
        Samples in it.
    shard_bytes, tar_bytes : int
        Size of the file, and of the tar once decompressed.
    checksum : str
        xxh3_128 of the samples' digests and the end of the archive, in hexadecimal.
    samples : list of dict
        The metadata of its first sample, as a preview.
    """

    shard_name: FileName
    shard_idx: Count
    num_samples: Count
    shard_bytes: Count
    tar_bytes: Count
    checksum: str = Field(pattern=r"^[0-9a-f]{32}$")
    samples: list[dict[str, Any]] = Field(default_factory=list, max_length=16)


class ColumnEntry(FrozenModel):
    """One field over all samples.

    Attributes
    ----------
    name : str
        Field name.
    codec, extension : str
        Who wrote its payloads, and how its members' names end.
    codec_version : int
        The codec's format version.
    distribution : str
        Which distribution provides the codec; named when a reader lacks it.
    dtype, shape, unit, table
        See :class:`~neurofm_shards.types.ColumnSpec`.
    num_samples : int
        How many samples have the field.
    optional : bool
        Whether some samples lack it.
    """

    name: str = Field(min_length=1, max_length=255)
    codec: str = Field(max_length=255)
    extension: str = Field(max_length=255)
    codec_version: Count = 1
    distribution: Distribution = ""
    dtype: DType | None = None
    shape: list[Count | None] | None = Field(None, max_length=64)
    unit: str | None = None
    table: str | None = None
    num_samples: Count = 0
    optional: bool = False

    @property
    def spec(self) -> ColumnSpec:
        """The column as the rest of the program describes it."""
        return ColumnSpec(
            self.name, self.dtype, None if self.shape is None else tuple(self.shape), self.unit, self.table
        )


class TableEntry(FrozenModel):
    """A side table of the data set (units, channels): its file, and how many of its rows belong to this manifest."""

    file: Annotated[str, AfterValidator(_table_file)]
    rows: Count


class Manifest(FrozenModel):
    """A data set.

    Attributes
    ----------
    format_version : int
        Of the whole layout on disk.
    total_samples, total_shards, shard_size : int
        Samples, shards, and samples per full shard.
    compression : str
        Name of the shards' compression, ``"none"`` for plain tar.
    compression_distribution : str
        Which distribution provides the compression; named when a reader lacks it.
    modalities : list of str
        Names of the columns.
    columns : list of ColumnEntry
        What every sample holds.
    shards : list of ShardEntry
        In the order of the data set.
    next_key : int
        The number that the next automatic key would have.
    statistics : dict
        ``{"split": ..., "columns": {column: S}, "sessions": {session: {column: S}}}``, where ``S`` has ``count``,
        ``mean``, ``std``, ``min``, ``max`` and ``nans``, one entry per channel.
    tables : dict of str to TableEntry
        Side tables.
    sources, failures : list of dict
        Inputs with their fingerprints, and those that could not be converted.
    config : dict
        The resolved configuration that made the data set.
    software : dict of str to str
        Versions of the distributions that took part.
    """

    FORMAT_VERSION: ClassVar[int] = FORMAT_VERSION

    format_version: Count = FORMAT_VERSION
    total_samples: Count
    total_shards: Count
    shard_size: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    compression: str = Field(max_length=255)
    compression_distribution: Distribution = ""
    modalities: list[str]
    columns: list[ColumnEntry]
    shards: list[ShardEntry]
    next_key: Count = 1
    statistics: dict[str, Any] = Field(default_factory=dict)
    tables: dict[str, TableEntry] = Field(default_factory=dict)
    sources: list[dict[str, Any]] = Field(default_factory=list)
    failures: list[dict[str, Any]] = Field(default_factory=list)
    config: dict[str, Any] = Field(default_factory=dict)
    software: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = {shard.shard_name for shard in self.shards}
        numbers = {shard.shard_idx for shard in self.shards}
        if len(names) != len(self.shards) or len(numbers) != len(self.shards):
            raise ValueError("two shards have one name or one number")
        if len(self.shards) != self.total_shards:
            raise ValueError(f"total_shards says {self.total_shards} and {len(self.shards)} are listed")
        if max(sum(shard.tar_bytes for shard in self.shards), sum(s.shard_bytes for s in self.shards)) > MAX_COUNT:
            raise ValueError("the shards' sizes add up to more than any disk holds")
        if sum(shard.num_samples for shard in self.shards) != self.total_samples:
            raise ValueError(f"the shards' samples do not add up to total_samples, {self.total_samples}")
        if len({column.name for column in self.columns}) != len(self.columns):
            raise ValueError("two columns have one name")
        return self

    def column(self, name: str) -> ColumnEntry:
        """Return one column; KeyError when there is none of this name."""
        return {column.name: column for column in self.columns}[name]
