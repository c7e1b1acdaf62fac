"""What ``windows=`` takes: a dict, options that were validated, or the path of a job file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from neurofm_shards.convert.config import read_job
from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.registry import explain
from neurofm_shards.recordings.options import WindowOptions

_AROUND_TRIALS = "windows around trials"
_ELSEWHERE = "looks at windows where they lie, and these lie elsewhere in every epoch"


class LoadedWindows(WindowOptions):
    """Options of windows that are cut when they are loaded: those of conversion, and what only training time can do."""

    jitter: bool = Field(
        False, description="shift each window by a random offset within its stride, another one in every epoch"
    )
    random: bool = Field(
        False,
        description="in every epoch, as many windows end to end as fit into each stretch, from a random offset on",
    )
    lengths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="bins in a window, of several lengths that are mixed; instead of sequence_length",
    )
    seed: int = Field(
        0, ge=0, lt=1 << 63, description="decides the offsets of jitter and random, with epoch and window"
    )

    @model_validator(mode="after")
    def _moves_what_is_tiled(self) -> Self:
        tiled = {"stride", "overlap"} & self.model_fields_set
        least = self.min_valid_fraction > 0
        _refuse(
            (self.jitter and self.random, "jitter and random both say where windows start: give one of them"),
            (
                self.moves and self.sampling != "fixed",
                f"{_AROUND_TRIALS} have no stretch to move in: say sampling=fixed",
            ),
            (self.moves and least, f"min_valid_fraction {_ELSEWHERE}: leave it out, and weight by the masks"),
            (self.random and bool(tiled), "random windows lie end to end: leave stride and overlap out, or say jitter"),
            (self.random and self.on_last_window != "drop", "random windows are whole: leave on_last_window out"),
        )
        return self

    @model_validator(mode="after")
    def _mixes_what_is_tiled(self) -> Self:
        lengths, both = self.lengths or (), "sequence_length" in self.model_fields_set
        _refuse(
            (bool(lengths) and both, "lengths and sequence_length both say how long windows are: give one of them"),
            (bool(lengths) and self.sampling != "fixed", f"{_AROUND_TRIALS} have one length: say sampling=fixed"),
            (len(set(lengths)) < len(lengths), f"lengths={lengths} names a length twice"),
        )
        return self

    @property
    def moves(self) -> bool:
        """Whether windows lie elsewhere in every epoch."""
        return self.jitter or self.random

    @property
    def cuts(self) -> tuple[WindowOptions, ...]:
        """What conversion would be given, for each length; the gap between splits is that of the longest."""
        own = {name: getattr(self, name) for name in WindowOptions.model_fields}
        lengths = self.lengths or (self.sequence_length,)
        made = []
        for length in lengths:
            split = self.split and self.split.model_copy(
                update={"purge": _purge(self.split.purge, max(lengths), length)}
            )
            tiled = {"stride": length} if self.random else {}
            made.append(WindowOptions(**{**own, "sequence_length": length, "split": split, **tiled}))
        return tuple(made)


def _refuse(*rules: tuple[bool, str]) -> None:
    for broken, why in rules:
        if broken:
            raise ValueError(why)


def _purge(purge: float, longest: int, length: int) -> float:
    """Return in windows of one length what ``purge`` windows of the longest are, to the bin."""
    if length == longest:
        return purge
    bins = math.ceil(purge * longest)
    share = bins / length
    return share if math.ceil(share * length) == bins else math.nextafter(share, 0.0)


WindowsArgument: TypeAlias = "WindowOptions | Mapping[str, Any] | str | os.PathLike[str]"


def window_options(windows: WindowsArgument) -> LoadedWindows:
    """Return validated options.

    Parameters
    ----------
    windows : WindowOptions, mapping or path
        Options, or a job file (TOML) that has them under ``windows`` or at its top level, as ``convert --config``
        takes it.

    Raises
    ------
    ConfigError
        An option is wrong; all that are wrong are named.
    InputNotFoundError
        There is no such file.
    """
    if isinstance(windows, LoadedWindows):
        return windows
    if isinstance(windows, WindowOptions):
        return LoadedWindows(**{name: getattr(windows, name) for name in windows.model_fields_set})
    if not isinstance(windows, (Mapping, str, os.PathLike)):
        raise ConfigError(
            f"windows are a dict of options, WindowOptions or the path of a job file, not {windows!r:.60}"
        )
    given = windows if isinstance(windows, Mapping) else _of_job(os.fspath(windows))
    try:
        return LoadedWindows.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError(f"windows: {explain(error, LoadedWindows)}") from None


def _of_job(path: str) -> dict[str, Any]:
    job = read_job(path)
    flat = {name: value for name, value in job.settings.items() if name in LoadedWindows.model_fields}
    return {**flat, **job.windows}
