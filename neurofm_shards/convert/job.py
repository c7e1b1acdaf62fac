"""Job files: the settings of a conversion as TOML, which may come from anyone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neurofm_shards.errors import ConfigError, FormatError, InputNotFoundError
from neurofm_shards.format.files import open_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

#: Far more than settings and the names of inputs need.
MAX_JOB_BYTES = 1 << 20
#: Far deeper than settings are, which have three levels. TOML parsers take quadratic time for deep keys.
MAX_JOB_DEPTH = 32
#: Strings and comments, in which nothing counts, and what nests or ends a key.
_TOKENS = re.compile(
    r'''"""(?:[^\\]|\\.?)*?(?:"""|\Z)|'{3}.*?(?:'{3}|\Z)|"(?:[^"\\\n]|\\.?)*"?|'[^'\n]*'?|\#[^\n]*|[][{}.,=\n]''',
    re.DOTALL,
)


class Job(BaseModel):
    """What a job file says; the fields that are not named here are settings of the conversion.

    Attributes
    ----------
    input : list of str
        Files, folders and patterns.
    output : str or None
        Folder of the data set.
    workers : int
        How many tasks run at once.
    executor : str, dict or None
        Where they run: its name, or its options with ``kind``.
    source, windows : mapping
        Options of the source and of the windows.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    input: list[str] = Field(default_factory=list)
    output: str | None = None
    workers: int = Field(1, ge=1)
    executor: str | dict[str, Any] | None = None
    source: dict[str, Any] = Field(default_factory=dict)
    windows: dict[str, Any] = Field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The other fields."""
        return self.model_extra or {}


def read_job(path: str) -> Job:
    """Read a job file (raises InputNotFoundError, ConfigError)."""
    try:
        text = _text(path)
        _check_depth(text)
        values = tomllib.loads(text)
    except InputNotFoundError:
        raise InputNotFoundError(f"job file {path} does not exist") from None
    except (FormatError, OSError, ValueError) as error:
        raise ConfigError(f"job file {path} cannot be read as TOML: {' '.join(str(error).split())[:300]}") from error
    if isinstance(values.get("input"), str):
        values["input"] = [values["input"]]
    try:
        return Job.model_validate(values)
    except ValidationError as error:
        from neurofm_shards.plugins.registry import explain  # noqa: PLC0415  (--help needs no registry)

        raise ConfigError(f"job file {path}: {explain(error, Job)}") from None


def _text(path: str) -> str:
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(MAX_JOB_BYTES + 1)
    if len(data) > MAX_JOB_BYTES:
        raise ValueError(f"it has more than {MAX_JOB_BYTES:,} bytes")
    return data.decode()


def _check_depth(text: str) -> None:
    """Refuse brackets and dotted keys that are nested too deeply, in one pass."""
    brackets = dots = 0
    for token in _TOKENS.finditer(text):
        match token[0]:
            case "[" | "{":
                brackets, dots = brackets + 1, 0
            case "]" | "}":
                brackets, dots = brackets - 1, 0
            case ".":
                dots += 1
            case "," | "=" | "\n":
                dots = 0
        if max(brackets, dots) > MAX_JOB_DEPTH:
            line = text.count("\n", 0, token.start()) + 1
            raise ValueError(f"line {line} is nested too deeply: settings have at most three levels")
