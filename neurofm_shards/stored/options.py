"""What ``windows=`` takes: a dict, options that were validated, or the path of a job file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from neurofm_shards.convert.job import read_job
from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.registry import explain
from neurofm_shards.recordings.options import WindowOptions


class LoadedWindows(WindowOptions):
    """Options of windows that are cut when they are loaded: those of conversion, and what only training time can do."""

    jitter: bool = Field(
        False, description="shift each window by a random offset within its stride, another one in every epoch"
    )
    jitter_seed: int = Field(0, ge=0, lt=1 << 63, description="decides the offsets, with epoch and window")

    @model_validator(mode="after")
    def _jitters_what_is_tiled(self) -> Self:
        if self.jitter and self.sampling != "fixed":
            msg = "jitter shifts windows within their stride, and windows around trials have none: say sampling=fixed"
            raise ValueError(msg)
        return self

    @property
    def cutting(self) -> WindowOptions:
        """What conversion would be given."""
        return WindowOptions(**{name: getattr(self, name) for name in WindowOptions.model_fields})


Windows: TypeAlias = "WindowOptions | Mapping[str, Any] | str | os.PathLike[str]"


def window_options(windows: Windows) -> LoadedWindows:
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
    given = windows if isinstance(windows, Mapping) else _of_job(os.fspath(windows))
    try:
        return LoadedWindows.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError(f"windows: {explain(error)}") from None


def _of_job(path: str) -> dict[str, Any]:
    job = read_job(path)
    flat = {name: value for name, value in job.settings.items() if name in LoadedWindows.model_fields}
    return {**flat, **job.windows}
