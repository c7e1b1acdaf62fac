"""Options of the source ``npz``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from neurofm_shards.errors import did_you_mean
from neurofm_shards.plugins.interfaces import PluginConfig
from neurofm_shards.types import WITHOUT_EFFECT, Problem


class NpzConfig(PluginConfig):
    """Options of :class:`~neurofm_shards_npz.source.NpzSource`."""

    kind: Literal["npz"] = "npz"
    arrays: tuple[str, ...] | None = Field(None, description="keys to take; all of them by default")
    layout: Literal["auto", "samples", "recording"] = Field(
        "auto", description="whether rows are samples or times; auto: times when time_axis, rate or timestamps is given"
    )
    time_axis: int | dict[str, int] | None = Field(None, description="axis that is time, for all keys or per key")
    rate: float | str | None = Field(None, description="samples per second, or the key that holds it")
    timestamps: str | None = Field(None, description="key of the time stamps, in seconds")
    start_s: float = Field(0.0, description="time of the first sample in seconds, with rate")
    channels: str | None = Field(None, description="key of the names along the channel axis")
    modality: dict[str, str] = Field(default_factory=dict, description="modality per key; behavior by default")
    units: dict[str, str] = Field(default_factory=dict, description="physical unit per key")
    circular: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="range (low, high) that a circular variable wraps in, per key"
    )
    session_id: str | None = Field(None, description="session id of the input; default: file name")
    subject_id: str = Field("", description="subject id written to every sample's metadata")

    @property
    def is_recording(self) -> bool:
        """Whether the archive is to be read as a recording."""
        given = self.time_axis is not None or self.rate is not None or self.timestamps is not None
        return self.layout == "recording" or (self.layout == "auto" and given)

    def axis(self, key: str) -> int:
        """Return the time axis of a key."""
        if isinstance(self.time_axis, dict):
            return self.time_axis.get(key, 0)
        return self.time_axis or 0

    def without_effect(self, keys: Iterable[str]) -> list[Problem]:
        """Return a problem for each key that an option names and no array has."""
        known = list(keys)
        axes = self.time_axis if isinstance(self.time_axis, dict) else {}
        per_key: dict[str, Mapping[str, Any]] = {
            "modality": self.modality,
            "units": self.units,
            "circular": self.circular,
            "time_axis": axes,
        }
        return [
            Problem(option, f"no array is called {key!r}{did_you_mean(key, known)}", WITHOUT_EFFECT)
            for option, named in per_key.items()
            for key in named
            if key not in known
        ]

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if self.rate is not None and self.timestamps is not None:
            raise ValueError("give rate or timestamps, not both")
        if self.start_s and self.rate is None:
            raise ValueError("start_s, the time of the first sample, goes with rate: time stamps say it themselves")
        if self.layout == "samples" and (self.time_axis, self.rate, self.timestamps) != (None, None, None):
            raise ValueError("time_axis, rate and timestamps are options of recordings, but layout says samples")
        if self.is_recording and self.rate is None and self.timestamps is None:
            raise ValueError("a recording needs a clock: give rate (a number or a key) or timestamps (a key)")
        if isinstance(self.rate, float) and not 0 < self.rate < float("inf"):
            raise ValueError(f"rate must be a positive number of samples per second, not {self.rate}")
        return self
