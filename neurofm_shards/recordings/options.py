"""What a user can choose about turning a recording into samples: frozen, closed, validated once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

Modality = Literal["spikes", "lfp", "behavior", "ophys", "events"]
At = Literal["bin_center", "bin_end", "bin_mean", "samples"]
LastWindow = Literal["drop", "overlap", "pad"]
SplitBy = Literal["session", "subject", "trial", "time"]

#: Ticks of 1 ns that int64 holds, with room for sums of them.
_LONGEST_TICKS = 1 << 61
DEFAULT_OVERLAP = 0.5
#: Shares of the splits where none are given.
DEFAULT_FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class SeriesOptions(_Options):
    """How a continuous, many-channel signal (LFP, fluorescence) is taken."""

    path: str | None = Field(None, description="path of the series; needed when there is more than one")
    rate: float | None = Field(None, gt=0, description="samples per second to resample to; none: as stored")
    channels: tuple[str, ...] | None = Field(None, description="ids of the channels to keep, in this order; none: all")
    filter: str | None = Field(
        None, description="channels or regions to keep by what the file says of each, e.g. 'iscell == 1'"
    )
    units: Literal["volts", "uV", "raw"] = Field(
        "volts", description="volts (or the file's own physical unit), uV, or raw stored numbers"
    )
    max_gap_ms: float | None = Field(
        None, gt=0, description="longer steps between time stamps are gaps; none: 1.5 sampling intervals"
    )


class BehaviorOptions(_Options):
    """How one behaviour series (or event stream) becomes values at bins."""

    path: str = Field(description="path of the series, or the end of it where that is unique")
    columns: tuple[str, ...] | None = Field(None, description="ids of the columns to keep, in this order; none: all")
    kind: Literal["continuous", "circular", "step", "instantaneous", "events"] | None = Field(
        None,
        description="interpolate, interpolate on the circle, hold, one value at an instant, or count; none: as found",
    )
    wrap: tuple[float, float] | None = Field(
        None, description="range in which a circular variable wraps; none: 0, 2 pi"
    )
    at: At = Field(
        "bin_center",
        description="value at the middle of a bin, at its end, or the mean over it; samples: all that lie in the "
        "window, with their times",
    )
    max_gap_ms: float | None = Field(
        None,
        gt=0,
        description="never interpolate over longer gaps (none: 3 median intervals, at least 100 ms), "
        "nor hold a step longer (none: until the next value)",
    )

    min_confidence: float | None = Field(
        None, ge=0, le=1, description="mask values that the series itself is less sure of (as pose estimation says it)"
    )

    @model_validator(mode="after")
    def _wrap_is_a_range(self) -> Self:
        if self.wrap is not None and not self.wrap[0] < self.wrap[1]:
            msg = f"wrap={self.wrap} is not a range: the first number must be below the second"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _samples_are_as_they_are(self) -> Self:
        said = [name for name in ("kind", "wrap", "max_gap_ms") if getattr(self, name) is not None]
        if self.at == "samples" and said:
            msg = f"at=samples gives the series' own samples, so there is nothing to interpolate: leave {said[0]} out"
            raise ValueError(msg)
        return self


class LabelOptions(_Options):
    """How one column of the trial table reaches the samples."""

    column: str = Field(description="name of the column")
    as_: Literal["metadata", "code"] = Field(
        "metadata",
        alias="as",
        description="an entry of the metadata, or a column NAME_code of numbers whose meaning is in a table",
    )

    @model_serializer
    def _by_alias(self) -> dict[str, str]:
        return {"column": self.column, "as": self.as_}


class SplitOptions(_Options):
    """How samples are divided so that nothing leaks: before windows are cut."""

    by: SplitBy = Field("session", description="what is kept together: session, subject, trial, or stretches of time")
    fractions: dict[str, float] = Field(
        DEFAULT_FRACTIONS, description="share of each split; by time: in this order; later ones are kept where two meet"
    )
    named: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="sessions or subjects that belong to a split in any case, e.g. test: [mouse7]; a split without a "
        "fraction has these only",
    )
    balanced: bool = Field(
        True,
        description="divide sessions, subjects, or the trials of each session, so that fractions of samples are met as "
        "nearly as whole ones allow; otherwise by a hash of the id, which more data never moves",
    )
    seed: int = Field(
        0, description="decides between divisions that are equally good, and is mixed into the hash of ids"
    )
    purge: float = Field(
        1.0, ge=0, description="gap left between splits that are neighbours in time, in window lengths"
    )
    column: str | None = Field(
        "split", description="by trial: a column of the trial table that already says the split is honoured"
    )

    @model_validator(mode="after")
    def _fractions_add_up(self) -> Self:
        if not self.fractions or min(self.fractions.values()) < 0 or abs(sum(self.fractions.values()) - 1) > 1e-6:
            msg = f"fractions={self.fractions} must be non-negative and add up to 1"
            raise ValueError(msg)
        if self.named and self.by not in ("session", "subject"):
            msg = f"named={dict(self.named)} puts sessions or subjects into splits, not what by={self.by} divides"
            raise ValueError(msg)
        listed = [name for names in self.named.values() for name in names]
        if twice := sorted({name for name in listed if listed.count(name) > 1}):
            msg = f"named puts {', '.join(twice)} into more than one split"
            raise ValueError(msg)
        return self

    @field_validator("named", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, named: Any) -> Any:
        if not isinstance(named, Mapping):
            return named
        return {split: (names,) if isinstance(names, str) else names for split, names in named.items()}

    @model_serializer(mode="wrap")
    def _what_matters(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``balanced`` out where it decides nothing, as in what earlier releases wrote."""
        values: dict[str, Any] = dumped(self)
        if self.by == "time":
            values.pop("balanced", None)
        return values

    @property
    def names(self) -> list[str]:
        """The splits: those with a fraction, then those that only named groups are in."""
        return list(dict.fromkeys([*self.fractions, *self.named]))

    @property
    def needs_all(self) -> bool:
        """Whether a recording's split follows from the sizes of all recordings."""
        return self.balanced and self.by in ("session", "subject")

    @property
    def by_name(self) -> dict[str, str]:
        """The split of each session or subject that is named."""
        return {group: split for split, groups in self.named.items() for group in groups}


class WindowOptions(_Options):
    """Everything about windows, bins, modalities, masks and splits.

    Defaults give overlapping windows of 100 bins of 10 ms over whatever modalities a recording holds.
    """

    modalities: tuple[Modality, ...] | None = Field(None, description="what to take; none: what is present")
    missing: Literal["error", "skip", "mask"] = Field(
        "error",
        description="a named modality that a session lacks: stop, skip the session, or give empty, masked columns",
    )
    masks: Literal["auto", "always"] = Field(
        "auto", description="when to write the column `valid`: where windows can be partly valid, or always"
    )
    # time
    extent: Literal["auto", "units", "series", "trials", "all"] | tuple[float, float] = Field(
        "auto",
        description="when something was recorded: epochs, else units, series and events, without pauses (auto); the "
        "whole stretch of one kind of streams, or of all; or seconds from and to",
    )
    bin_size_ms: float = Field(10.0, gt=0, description="width of a bin in milliseconds")
    sequence_length: int = Field(100, ge=1, description="bins in a window")
    overlap: float = Field(DEFAULT_OVERLAP, ge=0, lt=1, description="share of a window that the next one repeats")
    stride: int | None = Field(None, ge=1, description="bins from one window to the next; instead of overlap")
    on_last_window: LastWindow = Field(
        "drop", description="bins left over at the end of a stretch: drop, shift the last window back, or pad and mask"
    )
    limit_windows: int | None = Field(None, ge=1, description="at most so many windows per recording")
    # sampling
    sampling: Literal["fixed", "trial", "sweep"] = Field(
        "fixed", description="windows over the whole recording, one per trial, or one per patch-clamp sweep"
    )
    trial_table: str | None = Field(
        None, description="path of the interval table that holds the trials; none: `trials`"
    )
    align_field: str = Field("start_time", description="time column of the trial table that windows are aligned to")
    align_range_ms: tuple[float, float] | None = Field(
        None, description="window around the aligned time in ms; none: 0 to sequence_length bins"
    )
    margin_ms: float = Field(0.0, ge=0, description="extra time on both sides of an aligned window")
    trial_filter: str | None = Field(None, description="trials to use, e.g. 'outcome == \"hit\" and is_good == 1'")
    label_columns: tuple[str | LabelOptions, ...] = Field(
        (),
        description="trial columns copied into the samples' metadata (* for all), or, as code, columns of numbers for "
        "training; a name, or an object with column and as",
    )
    nan_stop: Literal["next_start", "align_range", "drop"] = Field(
        "next_start",
        description="trials without a stop time end at the next start, at the end of the aligned range, or go",
    )
    relative_columns: tuple[str, ...] = Field((), description="trial time columns that count from the trial's start")
    absolute_columns: tuple[str, ...] = Field((), description="trial time columns that count in session time after all")
    # spikes
    spikes: Literal["counts", "events", "both"] = Field("counts", description="binned counts, spike times, or both")
    unit_table_path: str | None = Field(None, description="path of the unit table; needed when there is more than one")
    unit_filter: str | None = Field(None, description="units to keep, e.g. 'quality == \"good\" and depth > 500'")
    min_firing_rate_hz: float = Field(0.0, ge=0, description="drop units that fire less over the recording")
    counts_dtype: Literal["auto", "uint8", "uint16"] = Field(
        "auto", description="stored type of counts; auto: uint8 for bins up to 50 ms, else uint16"
    )
    suspicious_spike_times: Literal["error", "allow"] = Field(
        "error", description="spike times that look like sample numbers or restart in every trial"
    )
    series_times: Literal["error", "seconds", "milliseconds", "microseconds"] | float = Field(
        "error",
        description="time stamps of series that are all whole numbers: stop, take them for seconds, milliseconds or "
        "microseconds, or for sample numbers at so many per second",
    )
    # continuous signals
    lfp: SeriesOptions | tuple[SeriesOptions, ...] = Field(
        SeriesOptions(), description="local field potential; a list puts several series side by side"
    )
    ophys: SeriesOptions | tuple[SeriesOptions, ...] = Field(
        SeriesOptions(), description="fluorescence or other responses of imaged regions; a list for several series"
    )
    behavior: tuple[BehaviorOptions, ...] | None = Field(None, description="behaviour series; none: all that are found")
    # validity
    epochs: tuple[str, ...] = Field((), description="use only epochs with one of these tags")
    invalid: Literal["drop", "mask", "ignore"] = Field("drop", description="times that the file calls invalid")
    gaps: Literal["drop", "mask"] = Field(
        "drop", description="gaps inside LFP and imaging: no window crosses them, or they are masked"
    )
    min_valid_fraction: float = Field(
        0.0, ge=0, le=1, description="drop windows in which a smaller share of the bins of any modality is valid"
    )
    split: SplitOptions | None = Field(None, description="train, validation and test, assigned before windows are cut")

    @field_validator("split", mode="before")
    @classmethod
    def _one_word_says_by_what(cls, given: Any) -> Any:
        return {"by": given} if isinstance(given, str) else given

    @field_validator("behavior", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return (given,) if isinstance(given, (Mapping, BehaviorOptions)) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stride is not None and self.overlap != DEFAULT_OVERLAP:
            msg = "overlap and stride both say how far windows are apart: give one of them"
            raise ValueError(msg)
        if self.bin_size_ms * 1e6 < 1:
            msg = f"bin_size_ms={self.bin_size_ms} is below the time resolution of 1 ns"
            raise ValueError(msg)
        if not isinstance(self.extent, str) and not self.extent[0] < self.extent[1]:
            msg = f"extent={self.extent} is not a range: the first number must be below the second"
            raise ValueError(msg)
        if self.align_range_ms is not None and not self.align_range_ms[0] < self.align_range_ms[1]:
            msg = f"align_range_ms={self.align_range_ms} is not a range: the first number must be below the second"
            raise ValueError(msg)
        if not self.chosen("lfp") or not self.chosen("ophys"):
            msg = "lfp and ophys take one choice or a list of them, not an empty list"
            raise ValueError(msg)
        bins = max(self.sequence_length, self.stride or 1, self.align_bins())
        away = max(map(abs, self.align_range_ms or (0.0,))) * 1e6
        if max(bins * self.bin_ticks, away) >= _LONGEST_TICKS:
            msg = (
                f"windows of {bins:g} bins of {self.bin_size_ms:g} ms last decades, which no recording does: times are "
                "in milliseconds, sequence_length and stride in bins"
            )
            raise ValueError(msg)
        return self

    def labels(self, kind: Literal["metadata", "code"]) -> tuple[str, ...]:
        """Return the trial columns that reach samples in this way."""
        every = [LabelOptions(column=label) if isinstance(label, str) else label for label in self.label_columns]
        return tuple(label.column for label in every if label.as_ == kind)

    def chosen(self, modality: str) -> tuple[SeriesOptions, ...]:
        """Return the options of ``lfp`` or ``ophys``, one entry per series."""
        choice = self.lfp if modality == "lfp" else self.ophys
        return choice if isinstance(choice, tuple) else (choice,)

    @property
    def bin_ticks(self) -> int:
        """Width of a bin in ticks of 1 ns."""
        return round(self.bin_size_ms * 1e6)

    @property
    def stride_bins(self) -> int:
        """Bins from one fixed window to the next."""
        if self.stride is not None:
            return self.stride
        return max(1, round(self.sequence_length * (1 - self.overlap)))

    @property
    def window_bins(self) -> int:
        """Bins in every window."""
        return self.sequence_length if self.sampling == "fixed" else self.align_bins()

    @property
    def margin_bins(self) -> int:
        """Bins on each side of an aligned window, rounded to whole bins."""
        return round(self.margin_ms / self.bin_size_ms)

    @property
    def align_start_ticks(self) -> int:
        """Start of an aligned window relative to the aligned time, in ticks."""
        first = 0.0 if self.align_range_ms is None else self.align_range_ms[0]
        return round(first * 1e6) - self.margin_bins * self.bin_ticks

    @property
    def align_stop_s(self) -> float:
        """End of an aligned window without its margin, in seconds from the aligned time."""
        return (self.align_start_ticks + (self.align_bins() - self.margin_bins) * self.bin_ticks) / 1e9

    def align_bins(self) -> int:
        """Return the number of bins of an aligned window, margins included.

        Raises
        ------
        ValueError
            The range is not a whole number of bins.
        """
        if self.align_range_ms is None:
            return self.sequence_length + 2 * self.margin_bins
        length = (self.align_range_ms[1] - self.align_range_ms[0]) / self.bin_size_ms
        if abs(length - round(length)) > 1e-6 or round(length) < 1:
            msg = f"align_range_ms={self.align_range_ms} is {length:g} bins of {self.bin_size_ms:g} ms: give whole bins"
            raise ValueError(msg)
        return round(length) + 2 * self.margin_bins

    @property
    def counts_type(self) -> str:
        """Name of the stored type of counts."""
        if self.counts_dtype != "auto":
            return self.counts_dtype
        return "uint8" if self.bin_size_ms <= 50 else "uint16"
