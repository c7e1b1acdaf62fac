"""What ``windows=`` takes: a dict, options that were validated, or the path of a job file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic import ValidationError

from neurofm_shards.convert.job import read_job
from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.registry import explain
from neurofm_shards.recordings.options import WindowOptions

Windows: TypeAlias = "WindowOptions | Mapping[str, Any] | str | os.PathLike[str]"


def window_options(windows: Windows) -> WindowOptions:
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
    if isinstance(windows, WindowOptions):
        return windows
    given = windows if isinstance(windows, Mapping) else _of_job(os.fspath(windows))
    try:
        return WindowOptions.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError(f"windows: {explain(error)}") from None


def _of_job(path: str) -> dict[str, Any]:
    job = read_job(path)
    flat = {name: value for name, value in job.settings.items() if name in WindowOptions.model_fields}
    return {**flat, **job.windows}
