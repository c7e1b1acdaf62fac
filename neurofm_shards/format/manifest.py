"""The manifest: the model, reading, writing and merging it, and the side tables that it lists.

It is written last; what it does not name does not exist. Nothing in it depends on the clock, the host, a folder or the
number of workers.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from neurofm_shards.blocks import SHARED_TABLE
from neurofm_shards.codecs.arrays import plain_dtype
from neurofm_shards.errors import ConfigError, FormatError, InputNotFoundError
from neurofm_shards.format.files import SIDECAR_DIR, Folder, open_regular, write_atomically
from neurofm_shards.format.keys import RECORDING_FIELD
from neurofm_shards.format.shard_names import shard_file_name
from neurofm_shards.limits import MAX_MANIFEST_BYTES
from neurofm_shards.types import ColumnSpec
from neurofm_shards.values import loads_unique

MANIFEST_NAME = "dataset_metadata.json"
FORMAT_VERSION = 1
MAX_COUNT = 1 << 53

_TABLE_FILE = re.compile(r"\.neurofm/(?:[A-Za-z0-9_][A-Za-z0-9_+-]*/)?[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
#: A plain name, or none: it appears in messages that say what to install.
Distribution = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,199}|\([a-z]+\)|)$")]
FileName = Annotated[str, AfterValidator(shard_file_name)]
_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


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


DType = Annotated[str, AfterValidator(_number_type)]


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
    split : str or None
        The split that all its samples are in, empty where each is in none; None where they are in several, or nothing
        is split. Absent from the text where it is None.
    samples : list of dict
        The metadata of its first sample, as a preview.
    """

    shard_name: FileName
    shard_idx: Count
    num_samples: Count
    shard_bytes: Count
    tar_bytes: Count
    checksum: str = Field(pattern=r"^[0-9a-f]{32}$")
    split: str | None = None
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
    splits : dict of str to int
        Samples of each split that is saved beside the shards; absent from the text where none are.
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
    splits: dict[str, Count] = Field(default_factory=dict)
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

    @property
    def stores_recordings(self) -> bool:
        """Whether samples are pieces of recordings as they were found, to be cut into windows when they are read."""
        return any(column.name == RECORDING_FIELD and column.extension == "json" for column in self.columns)

    @property
    def specs(self) -> tuple[ColumnSpec, ...]:
        """The columns as the rest of the program describes them; a recording may lack any of them."""
        return tuple(replace(column.spec, optional=self.stores_recordings) for column in self.columns)

    def column(self, name: str) -> ColumnEntry:
        """Return one column; KeyError when there is none of this name."""
        return {column.name: column for column in self.columns}[name]

    @property
    def has_fixed_columns(self) -> bool:
        """Whether what is added must have the columns that are there; those of Python writers may differ."""
        return not self.config or "format" in self.config


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the canonical text of a manifest."""
    values = manifest.model_dump()
    if not manifest.splits:
        del values["splits"]
    for shard in values["shards"]:
        if shard["split"] is None:
            del shard["split"]
    return orjson.dumps(values, option=_OPTIONS)


def write_manifest(folder: Path | str, manifest: Manifest, *, durable: bool = False, mode: int | None = None) -> None:
    """Write a folder's manifest, atomically; ``mode`` are its permission bits, by default those of the one before.

    Raises
    ------
    ConfigError
        It is larger than any reader takes.
    """
    data = manifest_bytes(manifest)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ConfigError(
            f"the manifest would have {len(data):,} bytes, and {MAX_MANIFEST_BYTES:,} are read: make larger shards, or "
            "say less of each input"
        )
    write_atomically(Path(folder) / MANIFEST_NAME, [data], durable=durable, mode=mode)


def read_manifest(folder: Path | str) -> Manifest | None:
    """Return the manifest of a folder, None where there is none (raises FormatError)."""
    path = Path(folder) / MANIFEST_NAME
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except InputNotFoundError:
        return None
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError(
            f"{MANIFEST_NAME} has more than {MAX_MANIFEST_BYTES:,} bytes, which no data set of ours needs"
        )
    return parse_manifest(data)


def parse_manifest(data: bytes) -> Manifest:
    """Check a manifest's bytes, which may come from anyone."""
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"{MANIFEST_NAME} is not JSON ({error}); `neurofm-shards repair` makes a new one") from error
    if not isinstance(values, dict) or "format_version" not in values:
        raise FormatError(f"{MANIFEST_NAME} has no format_version: it was not written by this program")
    if values["format_version"] != FORMAT_VERSION:
        raise FormatError(
            f"{MANIFEST_NAME} has format_version {values['format_version']!r:.40}, and this program knows "
            f"{FORMAT_VERSION}: a newer version of neurofm-shards may read it"
        )
    _refuse_duplicate_keys(data, values)
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise FormatError(f"{MANIFEST_NAME} is damaged: {_explained(error)}") from error


def _refuse_duplicate_keys(data: bytes, values: dict[str, Any]) -> None:
    # orjson keeps the last of two equal keys; a text that comes out as it went in had none. Only texts that someone
    # edited by hand need the slow parser.
    try:
        if orjson.dumps(values, option=_OPTIONS) != data:
            loads_unique(data)
    except (TypeError, ValueError, RecursionError) as error:  # orjson's own error is a TypeError
        raise FormatError(f"{MANIFEST_NAME} is damaged: {error}") from error


def _explained(error: ValidationError) -> str:
    found = [f"{'.'.join(str(part) for part in e['loc']) or 'the whole'}: {e['msg']}" for e in error.errors()[:3]]
    return "; ".join(found)


def merge_columns(groups: Iterable[Sequence[ColumnEntry]], total_samples: int) -> list[ColumnEntry]:
    """Join the columns of shards or data sets.

    Parameters
    ----------
    groups : iterable of sequence of ColumnEntry
        The columns of each.
    total_samples : int
        Samples of all together.

    Returns
    -------
    list of ColumnEntry
        Axes, dtypes, units and tables that differ become None; ``num_samples`` are added up, and a column that some
        samples lack is ``optional``. Where codecs differ, the first one is named: readers go by the members' names.
    """
    merged: dict[str, ColumnEntry] = {}
    for group in groups:
        for entry in group:
            before = merged.get(entry.name)
            merged[entry.name] = entry if before is None else _merge(before, entry)
    return [entry.model_copy(update={"optional": entry.num_samples < total_samples}) for entry in merged.values()]


def _merge(a: ColumnEntry, b: ColumnEntry) -> ColumnEntry:
    both = a.spec.merge(b.spec)
    return a.model_copy(
        update={
            "dtype": both.dtype,
            "shape": None if both.shape is None else list(both.shape),
            "unit": both.unit,
            "table": both.table,
            "num_samples": a.num_samples + b.num_samples,
        }
    )


def summary(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the summary of a data set, as JSON values."""
    return {
        "output_dir": str(folder),
        "total_samples": manifest.total_samples,
        "total_shards": manifest.total_shards,
        "total_bytes": sum(shard.shard_bytes for shard in manifest.shards),
        "shard_size": manifest.shard_size,
        "compression": manifest.compression,
        "modalities": list(manifest.modalities),
        "sessions": len({source["session_id"] for source in manifest.sources if "session_id" in source}),
        "splits": split_counts(manifest),
        "drops": _counted(source.get("drops", {}) for source in manifest.sources),
        "problems": [
            {"session_id": source.get("session_id", ""), **problem}
            for source in manifest.sources
            for problem in source.get("problems", ())
            if problem.get("severity") != "info"
        ],
        "valid_shares": valid_shares(
            (source.get("facts", {}), source.get("num_samples", 0)) for source in manifest.sources
        ),
        "failures": list(manifest.failures),
    }


def split_counts(manifest: Manifest) -> dict[str, int]:
    """Return samples by split: of those that were saved, else as the inputs say.

    Empty where there are no splits, or the inputs' numbers are not those of the data set.
    """
    samples = sum(source.get("num_samples") or 0 for source in manifest.sources)
    if manifest.splits or samples != manifest.total_samples:
        return dict(manifest.splits)
    counts = _counted((source.get("facts") or {}).get("splits") or {} for source in manifest.sources)
    order = [shard.split for shard in manifest.shards if shard.split in counts]
    return {name: counts[name] for name in dict.fromkeys([*order, *counts]) if name is not None}


def _counted(drops: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return how many samples all inputs dropped, by reason."""
    counts: Counter[str] = Counter()
    for each in drops:
        counts.update(each)
    return dict(counts)


def valid_shares(inputs: Iterable[tuple[Mapping[str, Any], int]]) -> dict[str, float]:
    """Return in which share of windows each modality is valid throughout, of the inputs that have it."""
    valid: dict[str, float] = {}
    total: Counter[str] = Counter()
    for facts, count in inputs:
        for name, share in held_shares(facts).items():
            valid[name] = valid.get(name, 0.0) + share * count
            total[name] += count
    return {name: valid[name] / total[name] for name in valid if total[name]}


def held_shares(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return in which share of an input's windows each modality that it has is valid throughout.

    One that it lacks is said to be valid too, so that no window is dropped for it; facts tell of those it has.
    """
    shares: Mapping[str, float] = facts.get("valid_share") or {}
    return {name: share for name, share in shares.items() if name in facts.get("modalities", shares)}


def side_table(folder: Path, manifest: Manifest | None, name: str) -> list[dict[str, Any]]:
    """Return the rows of a side table.

    Parameters
    ----------
    folder : Path
        The data set's.
    manifest : Manifest or None
        Says which tables there are; None for shards from elsewhere, which have none.
    name : str
        The table.

    Raises
    ------
    ConfigError
        There is no such table; the message lists those that are there.
    FormatError
        The table is damaged.
    """
    entries: Mapping[str, TableEntry] = {} if manifest is None else manifest.tables
    if name not in entries:
        raise ConfigError(f"{folder} has no table {name!r}; there are: {', '.join(entries) or 'none'}")
    return read_rows(folder, entries[name], entries[name].rows)


def shared_rows(folder: Path, manifest: Manifest) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the side tables that the inputs of a data set share."""
    shared = {name: entry for name, entry in manifest.tables.items() if name.startswith(SHARED_TABLE)}
    return {name: read_rows(folder, entry, entry.rows) for name, entry in shared.items()}


def write_rows(
    folder: Path, entry: TableEntry, rows: Sequence[Mapping[str, Any]], *, durable: bool, mode: int | None = None
) -> None:
    """Write a table; rows hold JSON values, ``mode`` are the permission bits of a file that is new."""
    path = folder / entry.file
    with Folder.open(path.parent, create=True) as tables:
        text = orjson.dumps(rows, option=orjson.OPT_APPEND_NEWLINE)
        tables.write(path.name, [text], durable=durable, mode=tables.mode(path.name) or mode)


def read_rows(folder: Path, entry: TableEntry, rows: int) -> list[dict[str, Any]]:
    """Read the first rows of a table; those beyond belong to an addition that never finished (raises FormatError)."""
    return read_table(folder, entry, rows)[:rows]


def read_table(folder: Path, entry: TableEntry, rows: int | None = None) -> list[dict[str, Any]]:
    """Read all rows of a table's file, which has at least ``rows``, by default those of the manifest."""
    least = entry.rows if rows is None else rows
    try:
        path = folder / entry.file
        with Folder.open(path.parent) as tables:
            table = orjson.loads(tables.read(path.name))
    except (FileNotFoundError, orjson.JSONDecodeError) as error:
        raise FormatError(
            f"table {entry.file} of {folder} cannot be read: {error}. Copy the hidden folder along with the shards"
        ) from error
    if not isinstance(table, list) or len(table) < least or not all(isinstance(row, dict) for row in table):
        raise FormatError(f"table {entry.file} of {folder} must be a list of at least {least} rows")
    return table
