"""What loading asks of a data set, whether its samples are stored in shards or cut out of recordings when read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Ints
from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, SampleIndexError, StateError
from neurofm_shards.expressions import unknown_name
from neurofm_shards.types import ColumnSpec, Metadata, Ragged

if TYPE_CHECKING:
    from typing_extensions import Self

    from neurofm_shards.format.manifest import Manifest
    from neurofm_shards.format.metadata_table import MetadataTable
    from neurofm_shards.reading.catalog import Catalog


#: What to do where data sets differ in what their columns mean.
OnDifferent: TypeAlias = Literal["error", "allow"]


def timing_of(facts: Iterable[Mapping[str, Any]]) -> dict[str, tuple[float, ...]]:
    """Return bin widths, window lengths and rates of inputs, all values of each in ascending order."""
    found: dict[str, set[float]] = {}
    for said in facts:
        bins = {"ms per bin": said.get("bin_size_ms"), "bins in a window": said.get("window_bins")}
        modalities = dict(said.get("modalities") or {})
        rates = {f"samples of {name} per second": each.get("rate_hz") for name, each in modalities.items()}
        for what, value in {**bins, **rates}.items():
            if isinstance(value, (int, float)):
                found.setdefault(what, set()).add(float(value))
    return {what: tuple(sorted(values)) for what, values in found.items()}


def check_alike(
    parts: Sequence[tuple[str, SampleCollection]],
    aim: str,
    remedy: str,
    on_different: OnDifferent = "error",
    *,
    units: bool = True,
) -> None:
    """Refuse to bring data sets together whose samples mean different things by the same columns.

    Parameters
    ----------
    parts : sequence of (name, SampleCollection)
        The data sets, and what messages call them.
    aim : str
        What is to be done with them, ``"mix"``.
    remedy : str
        What does it all the same.
    on_different : "error" or "allow"
        Whether to refuse them at all.
    units : bool
        Whether to compare physical units, beside bins and rates.

    Raises
    ------
    ConfigError
        They differ; says in what, and the values in each. Or ``on_different`` is neither word.
    """
    if on_different not in get_args(OnDifferent):
        raise ConfigError(f"on_different={on_different!r}; choose 'error' or 'allow'")
    if on_different == "allow":
        return
    said: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, collection in parts:
        for what, values in _measures(collection, units=units).items():
            said.setdefault(what, {})[name] = values
    differing = {what: by_name for what, by_name in said.items() if len(set(by_name.values())) > 1}
    if differing:
        told = "; ".join(
            f"{what}: " + ", ".join(f"{' and '.join(values)} in {name}" for name, values in by_name.items())
            for what, by_name in differing.items()
        )
        raise ConfigError(f"the data sets to {aim} differ in {told}. Convert them alike, or {remedy}")


def _measures(collection: SampleCollection, *, units: bool) -> dict[str, tuple[str, ...]]:
    """Return bins, rates and physical units of a data set, each in all of its values."""
    found = {what: tuple(f"{value:g}" for value in values) for what, values in collection.timing().items()}
    if units:
        found |= {f"unit of {name}": (spec.unit,) for name, spec in collection.columns.items() if spec.unit}
    return found


class PreparedRows(Protocol):
    """What :meth:`SampleCollection.select` found out about rows."""

    def cut(self, lengths: Iterable[int]) -> Iterable[Any]:
        """Cut this selection into parts of so many rows each."""


class SampleCollection(ABC):
    """Random access to samples, batch-wise.

    Thread-safe, fork-safe, and picklable: a copy in another process opens the same data again, and refuses if it is
    not the same any more. ``with`` closes it.

    Attributes
    ----------
    num_samples : int
        All samples.
    shard_sizes : numpy.ndarray of int64, shape (shards,)
        Samples per shard; a shard is whatever a shuffle takes for one.
    starts : numpy.ndarray of int64, shape (shards + 1,)
        First row of each shard, and the number of rows.
    columns : dict of str to ColumnSpec
        The fields, without the metadata; dtypes are in native byte order.
    manifest : Manifest or None
        None for shards from elsewhere.
    catalog : Catalog
        What is known without opening shards.
    """

    num_samples: int
    shard_sizes: Ints
    starts: Ints
    columns: dict[str, ColumnSpec]
    manifest: Manifest | None
    catalog: Catalog

    def __len__(self) -> int:
        return self.num_samples

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Wait for running gathers, then release maps and memory. Reading afterwards raises ClosedError."""

    # -- identity

    @property
    @abstractmethod
    def shard_names(self) -> list[str]:
        """A name for each shard, in order."""

    @property
    def fingerprint(self) -> str:
        """Identity of the data: the same for the same samples in the same shards, wherever they lie."""
        return self.prefix_fingerprint(len(self.shard_sizes))

    @abstractmethod
    def prefix_fingerprint(self, num_shards: int) -> str:
        """Return the fingerprint of the first ``num_shards`` shards alone."""

    # -- values

    @property
    def moves(self) -> bool:
        """Whether samples are others in every epoch, under the numbers of :meth:`rows_in`."""
        return False

    def rows_in(self, epoch: int, rows: Ints) -> Ints:  # noqa: ARG002  (what is stored is the same in every epoch)
        """Return the numbers under which an epoch's rows are to be fetched: the rows themselves, unless they change."""
        return rows

    def gather(
        self,
        rows: npt.ArrayLike,
        columns: Iterable[str] | None = None,
        out: Mapping[str, npt.NDArray[Any]] | None = None,
        dtypes: Mapping[str, npt.DTypeLike] | None = None,
    ) -> dict[str, npt.NDArray[Any] | Ragged | list[Any]]:
        """Fetch rows, in the order asked for; repeats are fine.

        Parameters
        ----------
        rows : array of int64, shape (n,)
            Rows, 0 to ``num_samples - 1``.
        columns : iterable of str, optional
            Fields to fetch; all by default. Others are not touched.
        out : mapping of str to numpy.ndarray, optional
            Arrays (n, ...) to fill, for columns of one shape.
        dtypes : mapping of str to dtype, optional
            Types to convert to while copying.

        Returns
        -------
        dict of str to numpy.ndarray, Ragged or list
            (n, ...) arrays of columns of one shape; :class:`~neurofm_shards.types.Ragged` where only the first length
            differs; a list of n values for all else, ``None`` where a sample lacks the field. All of it is new memory.

        Raises
        ------
        SampleIndexError
            A row is out of range.
        ConfigError
            There is no such column.
        FormatError
            A shard is damaged; names shard, key and column.
        IntegrityError
            A checksum does not match (``verify=True``).
        ClosedError
            The data set was closed.
        """
        return self.read(self.select(rows, columns), out, dtypes)

    @abstractmethod
    def select(self, rows: npt.ArrayLike, columns: Iterable[str] | None = None) -> PreparedRows:
        """Find out where the values of rows lie; parameters and errors are those of :meth:`gather`."""

    @abstractmethod
    def read(
        self,
        selection: Any,
        out: Mapping[str, npt.NDArray[Any]] | None = None,
        dtypes: Mapping[str, npt.DTypeLike] | None = None,
    ) -> dict[str, npt.NDArray[Any] | Ragged | list[Any]]:
        """Fetch what was selected; parameters, result and errors are those of :meth:`gather`."""

    @abstractmethod
    def finds_while_copying(self, columns: Iterable[str] | None = None) -> bool:
        """Return whether looking for the values of several batches together would save nothing."""

    @abstractmethod
    def payload(self, row: int, column: str) -> bytes:
        """Return a member's bytes as they are stored.

        Raises
        ------
        ConfigError
            This sample has no such field, or nothing is stored for it.
        """

    # -- facts

    @abstractmethod
    def metadata(self, rows: npt.ArrayLike) -> list[Metadata]:
        """Return the metadata of rows: one dict each, empty where a sample has none.

        Raises
        ------
        FormatError
            A shard is damaged; names shard and key. JSON that is no object is kept under ``value``.
        """

    @abstractmethod
    def metadata_table(self) -> MetadataTable:
        """Return the scalar metadata of all samples, column by column."""

    @abstractmethod
    def statistics(self, columns: Iterable[str] | None = None) -> Mapping[str, Any]:
        """Return statistics of some columns, or of all, over training data, as in a manifest."""

    @property
    @abstractmethod
    def tables(self) -> Mapping[str, int]:
        """Rows of each side table."""

    def timing(self) -> Mapping[str, tuple[float, ...]]:
        """Return bin widths, window lengths and rates, all values of each in ascending order; unknown ones left out."""
        sources = self.manifest.sources if self.manifest is not None else ()
        return timing_of(source.get("facts") or {} for source in sources)

    @abstractmethod
    def table(self, name: str) -> list[dict[str, Any]]:
        """Return a side table, to whose rows columns such as ``unit_ids`` refer: one dict per row.

        Raises
        ------
        ConfigError
            There is no such table; the message lists those that are there.
        """

    @abstractmethod
    def lengths(self, column: str) -> Ints:
        """Return the length of one column in every sample.

        Raises
        ------
        ConfigError
            An index does not say how long it is.
        """

    @abstractmethod
    def is_everywhere(self, column: str) -> bool:
        """Return whether every sample has a column."""

    @abstractmethod
    def first_row_with(self, column: str) -> int | None:
        """Return the first row that has a column; None where none has."""

    @abstractmethod
    def has(self, row: int, column: str) -> bool:
        """Return whether a sample has a field (the metadata counts as one)."""

    # -- names

    @abstractmethod
    def keys(self, rows: npt.ArrayLike) -> list[str]:
        """Return the keys of rows."""

    def key(self, row: int) -> str:
        """Return the key of one row."""
        return self.keys([row])[0]

    @abstractmethod
    def find(self, key: str) -> int:
        """Return the row of a key.

        Raises
        ------
        SampleNotFoundError
            No sample has this key.
        """

    @abstractmethod
    def describe(self, row: int) -> str:
        """Return key, shard and folder of a row, for messages."""

    @abstractmethod
    def grow_cache(self, cache_bytes: int, cache_dir: str | None = None) -> None:
        """Keep at least so many decoded bytes of compressed shards in memory.

        Parameters
        ----------
        cache_bytes : int
            What a shuffle window needs, say.
        cache_dir : str, optional
            Folder of a disk, where shards that are looked at from now on are kept instead.

        Raises
        ------
        ConfigError
            No file can be made there.
        """

    @property
    @abstractmethod
    def keeps_decoded(self) -> bool:
        """Whether compressed shards that memory has no room for are kept on a disk."""

    # -- for those who implement this

    def _checked(self, rows: npt.ArrayLike) -> Ints:
        """Return rows as an array; an error where they are out of range, or not one-dimensional."""
        where, count = np.asarray(rows, dtype=np.int64), self.num_samples
        if where.ndim != 1:
            raise ConfigError(f"rows must be one-dimensional, not of shape {where.shape}")
        if np.maximum.reduce(where.view(np.uint64), initial=0) >= count > 0 or (
            len(where) and not count
        ):  # negative numbers become huge
            bad = int(where[(where < 0) | (where >= count)][0])
            raise SampleIndexError(f"row {bad} is out of range: the data set has {counted(count, 'sample')}")
        return where

    def _no_column(self, name: str) -> ConfigError:
        return ConfigError(unknown_name("column", name, self.columns))


AnyCollection = TypeVar("AnyCollection", bound=SampleCollection)


def reopened(collection: AnyCollection, fingerprint: str) -> AnyCollection:
    """Return a collection that was opened again in another process; StateError where its data changed meanwhile."""
    if collection.fingerprint != fingerprint:
        collection.close()
        raise StateError(f"the data set {collection.catalog.folder} changed since it was opened; open it again")
    return collection


def check_out(spec: ColumnSpec, out: npt.NDArray[Any] | None, shape: tuple[int, ...] | None) -> None:
    """Refuse an array that a column cannot be gathered into; ``shape`` is what it needs, None where values differ."""
    if out is None:
        return
    if shape is None:
        raise ConfigError(f"column {spec.name!r} has no one shape: it cannot be gathered into an array")
    if out.shape != shape:
        raise ConfigError(f"column {spec.name!r}: out has shape {out.shape}, and {shape} is needed")
