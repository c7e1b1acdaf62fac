"""Figures that need data: spectra, distributions and the oddest samples, from samples that represent the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from neurofm_shards.blocks import dtype_name
from neurofm_shards.values import sorted_unique
from neurofm_shards_report.facts import DatasetFacts, drawn_rows
from neurofm_shards_report.pictures import feature_names
from neurofm_shards_report.views import SampleView, stored_view

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
#: Most samples, and bytes of samples, that measures are made from.
MAX_SAMPLES, MAX_BYTES = 256, 256 << 20
#: Most windows whose masks are read for a timeline.
MAX_WINDOWS = 800


@dataclass(frozen=True)
class Spectrum:
    """Power spectral density of a column over the drawn samples.

    Attributes
    ----------
    frequency : numpy.ndarray, shape (f,)
        In hertz.
    median, low, high : numpy.ndarray, shape (f,)
        Median, 5th and 95th percentile over channels, in ``unit``.
    unit : str
        Squared unit of the column per hertz.
    samples : int
        Samples that it is made from.
    """

    column: str
    frequency: Floats
    median: Floats
    low: Floats
    high: Floats
    unit: str
    samples: int


@dataclass(frozen=True)
class Distribution:
    """Valid values of one feature over the drawn samples.

    Attributes
    ----------
    edges, counts : numpy.ndarray, shape (bins + 1,) and (bins,)
        Histogram between the 0.1st and 99.9th percentile.
    outside : int
        Values beyond it.
    number, invalid : int
        Valid and masked values.
    """

    column: str
    name: str
    unit: str
    edges: Floats
    counts: npt.NDArray[np.int64]
    outside: int
    number: int
    invalid: int


@dataclass(frozen=True)
class Odd:
    """A sample that is the worst by one measure.

    Attributes
    ----------
    row : int
        Its number.
    why : str
        The measure and its value.
    """

    row: int
    why: str


@dataclass(frozen=True)
class Validity:
    """In which share of some windows, evenly chosen from the sessions of a timeline, a modality is valid.

    Attributes
    ----------
    name : str
        The modality.
    session : numpy.ndarray of int64, shape (n,)
        Number of each window's session.
    start, stop : numpy.ndarray, shape (n,)
        When the window begins, and when the next one that was looked at does, in seconds.
    share : numpy.ndarray, shape (n,)
        Share of the window's values that are valid.
    """

    name: str
    session: npt.NDArray[np.int64]
    start: Floats
    stop: Floats
    share: Floats

    def stretches(self, session: int) -> list[tuple[float, float, float]]:
        """Return the stretches of a session where values are valid, as (start, stop, share)."""
        found: list[tuple[float, float, float]] = []
        own = np.flatnonzero(self.session == session)
        for start, stop, share in zip(self.start[own], self.stop[own], self.share[own].round(1), strict=True):
            if share and found and found[-1][2] == share and start <= found[-1][1] + 1e-6:
                found[-1] = (found[-1][0], float(stop), float(share))
            elif share:
                found.append((float(start), float(stop), float(share)))
        return found


def validity(facts: DatasetFacts, sessions: Sequence[int]) -> list[Validity]:
    """Read the masks of some windows of these sessions; nothing without masks, or where windows have no times."""
    masks = [
        name for name, spec in facts.collection.columns.items() if _is_mask(name) and dtype_name(spec.dtype) == "bool"
    ]
    if facts.start is None or facts.stop is None or not masks:
        return []
    chosen = [
        _spread(np.flatnonzero(facts.sessions_of.codes == i), MAX_WINDOWS // len(sessions), facts) for i in sessions
    ]
    rows = np.concatenate([own for own, _ in chosen])
    found = facts.collection.gather(rows, masks)
    common = (facts.sessions_of.codes[rows], facts.start[rows], np.concatenate([until for _, until in chosen]))
    return [Validity(_modality(name), *common, _row_means(found[name])) for name in masks]


def _spread(rows: npt.NDArray[np.int64], most: int, facts: DatasetFacts) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return windows of a session, evenly chosen, in time order, and until when each stands for those after it."""
    start, stop = cast("tuple[Floats, Floats]", (facts.start, facts.stop))
    rows = rows[np.argsort(start[rows], kind="stable")]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), max(2, most))).round().astype(np.int64))]
    step = np.append(np.diff(start[rows]), 0.0)
    usual = 3 * float(np.median(step[:-1])) if len(rows) > 1 else 0.0
    return rows, np.where(step <= usual, np.maximum(start[rows] + step, stop[rows]), stop[rows])


def _is_mask(name: str) -> bool:
    return name == "valid" or name.endswith("_valid")


def _modality(mask: str) -> str:
    return "all modalities" if mask == "valid" else mask.removesuffix("_valid")


def _row_means(mask: Any) -> Floats:
    """Return the share of true values of each sample."""
    if isinstance(mask, np.ndarray):
        return np.asarray(mask.reshape(len(mask), -1).mean(axis=1), np.float64) if mask.size else np.zeros(len(mask))
    parts = [mask[i] for i in range(len(mask))]
    return np.array([0.0 if part is None or not part.size else np.mean(part) for part in parts], np.float64)


class DrawnSamples:
    """Samples that represent a data set, column by column.

    Parameters
    ----------
    facts : DatasetFacts
        The data set.
    """

    def __init__(self, facts: DatasetFacts) -> None:
        self._facts = facts
        collection = facts.collection
        each = max(1, int(collection.catalog.tar_bytes.sum()) // max(1, facts.num_samples))
        self.rows = drawn_rows(facts, max(1, min(MAX_SAMPLES, MAX_BYTES // each)))
        self.columns: dict[str, Any] = collection.gather(self.rows)
        self.units: Mapping[str, str] = facts.known["units"]
        self.metadata = collection.metadata(self.rows)

    def view(self, row: int) -> SampleView:
        """Return one sample of the data set, ready to be drawn."""
        view = stored_view(self._facts.collection, row, self._facts.known)
        split = self._facts.split_of(row)
        return replace(view, metadata={**view.metadata, "split": split} if split else view.metadata)

    @property
    def unit_rows(self) -> Sequence[Mapping[str, Any]]:
        """The side table of units; empty where there is none."""
        return self._facts.table("units")

    def valid(self, column: str) -> Array | None:
        """Return which values of a column are valid, as its mask says."""
        for name in (f"{column}_valid", "valid"):
            mask = self.columns.get(name)
            if isinstance(mask, np.ndarray) and mask.dtype == np.bool_:
                return mask
        return None

    def valid_shares(self) -> dict[str, float]:
        """Return the share of valid values of each column that has a mask."""
        found = {}
        for name in filter(_is_mask, self.columns):
            values = [np.asarray(mask) for mask in self.columns[name] if mask is not None]
            number = sum(mask.size for mask in values)
            if number and all(mask.dtype == np.bool_ for mask in values):
                found[_modality(name)] = sum(int(mask.sum()) for mask in values) / number
        return found

    def counts_per_unit(self) -> Floats | None:
        """Return the mean count in a bin of each unit, of data sets without a table of units."""
        counts = self.columns.get("spikes")
        if not isinstance(counts, np.ndarray) or counts.ndim != 3 or "unit_ids" in self.columns:
            return None
        return np.asarray(counts.mean(axis=(0, 1), dtype=np.float64))

    def spectra(self) -> list[Spectrum]:
        """Return the spectra of field potentials."""
        found = [self._spectrum(name) for name in self.columns if name == "lfp"]
        return [spectrum for spectrum in found if spectrum is not None]

    def _spectrum(self, column: str) -> Spectrum | None:
        data = self.columns[column]
        seconds = self._window_seconds()
        if not isinstance(data, np.ndarray) or data.ndim != 3 or data.shape[1] < 16 or seconds is None:
            return None
        whole = np.isfinite(data).all(axis=(1, 2))
        mask = self.valid(column)
        if mask is not None:
            whole &= mask.all(axis=tuple(range(1, mask.ndim)))
        data = data[whole]
        if not len(data):
            return None
        rate = data.shape[1] / seconds
        power = np.stack([_density(sample, rate) for sample in data]).mean(axis=0)[1:]
        low, median, high = np.quantile(power, (0.05, 0.5, 0.95), axis=1)
        frequency = np.fft.rfftfreq(data.shape[1], 1 / rate)[1:]
        unit = self.units.get(column)
        return Spectrum(column, frequency, median, low, high, f"{unit}²/Hz" if unit else "1/Hz", len(data))

    def _window_seconds(self) -> float | None:
        """Return the length of the drawn windows, where all have the same."""
        facts = self._facts
        if facts.start is None or facts.stop is None:
            return None
        lengths = facts.stop[self.rows] - facts.start[self.rows]
        return float(lengths[0]) if len(lengths) and np.allclose(lengths, lengths[0], atol=1e-6) else None

    def distributions(self, limit: int = 12) -> list[Distribution]:
        """Return the distributions of behaviour, one per feature."""
        data = self.columns.get("behavior")
        if not isinstance(data, np.ndarray) or data.ndim != 3:
            return []
        mask = self.valid("behavior")
        if mask is None:
            mask = np.isfinite(data)
        elif mask.ndim == 2:
            mask = np.broadcast_to(mask[:, :, None], data.shape)
        features = self._features("behavior_features", data.shape[2])
        names = feature_names(features, parts=2)
        return [
            _distribution(
                data[:, :, i], mask[:, :, i], names[i] if features[i] else f"behavior {i}", _unit(features[i])
            )
            for i in range(min(limit, data.shape[2]))
        ]

    def _features(self, column: str, count: int) -> list[Mapping[str, Any]]:
        """Return what the table of features says of each place; nothing where the samples differ in it."""
        numbers, table = self.columns.get(column), self._facts.table("features")
        if not isinstance(numbers, np.ndarray) or not table:
            return [{}] * count
        found: list[Mapping[str, Any]] = []
        for place in numbers.T:
            rows = [table[i] for i in sorted_unique(place).tolist()]
            kinds = {(row.get("path"), row.get("column"), row.get("unit")) for row in rows}
            found.append(rows[0] if len(kinds) == 1 else {})
        return found

    def oddest(self) -> list[Odd]:
        """Return the worst of the drawn samples by several measures, each sample once."""
        found: dict[int, Odd] = {}
        for score, text in self._scores():
            at = int(np.nanargmax(score)) if np.isfinite(score).any() else -1
            if at >= 0 and score[at] > 0:
                row = int(self.rows[at])
                found.setdefault(row, Odd(row, text(at)))
        return list(found.values())

    def _scores(self) -> list[tuple[Floats, Any]]:
        scores: list[tuple[Floats, Any]] = []
        spikes = self.columns.get("spikes")
        if isinstance(spikes, np.ndarray) and spikes.ndim == 3:
            total = spikes.sum(axis=(1, 2), dtype=np.float64)
            scores.append((total, lambda i: f"most spikes: {total[i]:.0f} (median {np.median(total):.0f})"))
            silent = (spikes.sum(axis=1) == 0).mean(axis=1)
            scores.append((silent, lambda i: f"most silent units: {silent[i]:.0%} (median {np.median(silent):.0%})"))
        lfp = self.columns.get("lfp")
        if isinstance(lfp, np.ndarray) and lfp.ndim == 3:
            size = np.nan_to_num(np.abs(lfp)).max(axis=(1, 2)).astype(np.float64)
            unit = self.units.get("lfp", "")
            scores.append((size, lambda i: f"largest LFP: {size[i]:.3g} {unit} (median {np.median(size):.3g} {unit})"))
        behavior, mask = self.columns.get("behavior"), self.valid("behavior")
        if isinstance(behavior, np.ndarray) and behavior.ndim == 3:
            far = _deviation(behavior)
            scores.append((far, lambda i: f"farthest behaviour: {far[i]:.1f} standard deviations from the mean"))
        if mask is not None:
            hidden = 1 - mask.mean(axis=tuple(range(1, mask.ndim)))
            scores.append((hidden, lambda i: f"most behaviour masked: {hidden[i]:.0%}"))
        return scores


def _density(sample: Array, rate: float) -> Floats:
    """Return the one-sided power spectral density of each channel, with a Hann window (Welch 1967, one segment)."""
    window = np.hanning(len(sample))[:, None]
    centred = sample - sample.mean(axis=0, dtype=np.float64)
    power = np.abs(np.fft.rfft(centred * window, axis=0)) ** 2 / (rate * (window**2).sum())
    power[1 : -1 if len(sample) % 2 == 0 else None] *= 2
    return np.asarray(power)


def _unit(row: Mapping[str, Any]) -> str:
    return str(row.get("unit") or "")


def _distribution(values: Array, mask: Array, name: str, unit: str) -> Distribution:
    kept = values[mask & np.isfinite(values)].astype(np.float64)
    if not len(kept):
        return Distribution("behavior", name, unit, np.array([0.0, 1.0]), np.zeros(1, np.int64), 0, 0, values.size)
    low, high = np.quantile(kept, (0.001, 0.999))
    inside = kept[(kept >= low) & (kept <= high)]
    counts, edges = np.histogram(inside, 40, (low, high) if high > low else (low - 0.5, low + 0.5))
    return Distribution(
        "behavior",
        name,
        unit,
        edges,
        counts.astype(np.int64),
        len(kept) - len(inside),
        len(kept),
        values.size - len(kept),
    )


def _deviation(values: Array) -> Floats:
    """Return the largest deviation from a feature's mean in each sample, in standard deviations."""
    with np.errstate(invalid="ignore", divide="ignore"):
        finite = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
        known = np.isfinite(finite)
        count = np.maximum(known.sum(axis=(0, 1)), 1)
        mean = np.where(known, finite, 0).sum(axis=(0, 1)) / count
        std = np.sqrt(np.where(known, (finite - mean) ** 2, 0).sum(axis=(0, 1)) / count)
        far = np.where(known & (std > 0), np.abs(finite - mean) / np.where(std > 0, std, 1), 0)
    return np.asarray(far.max(axis=(1, 2)))
