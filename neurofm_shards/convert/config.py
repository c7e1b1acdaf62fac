"""The configuration of a conversion, as one frozen model that the command line, jobs and the manifest share.

Jobs are files of TOML, which may come from anyone.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from string import Formatter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from neurofm_shards.errors import ConfigError, FormatError, InputNotFoundError
from neurofm_shards.format.files import open_regular
from neurofm_shards.recordings.options import WindowOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

#: Fields that say how to run, not what to make: they change no byte of a data set.
RUN_FIELDS = frozenset({"on_error", "durable"})
#: Options of sources that say where they may read, which is an affair of the machine.
SOURCE_RUN_FIELDS = frozenset({"allow_links"})
#: Fields that say how recordings are stored; a data set of windows does not record them.
RECORDING_FIELDS = frozenset({"layout", "shard_bytes", "piece_bytes"})
#: Fields that say whose recordings these are; recorded where they are used.
SUBJECT_FIELDS = ("subject_template", "subject_ids")
#: Flags that are not called as their field is: one of a list that may be repeated.
FLAGS = {"subject_ids": "subject-id"}
#: What a session id can be made of.
TEMPLATE_FIELDS = ("session_id", "subject_id", "stem", "parent")
#: Far more than settings and the names of inputs need.
MAX_JOB_BYTES = 1 << 20
#: Far deeper than settings are, which have three levels. TOML parsers take quadratic time for deep keys.
MAX_JOB_DEPTH = 32
#: Strings and comments, in which nothing counts, and what nests or ends a key.
_TOKENS = re.compile(
    r'''"""(?:[^\\]|\\.?)*?(?:"""|\Z)|'{3}.*?(?:'{3}|\Z)|"(?:[^"\\\n]|\\.?)*"?|'[^'\n]*'?|\#[^\n]*|[][{}.,=\n]''',
    re.DOTALL,
)


class ConversionConfig(BaseModel):
    """All settings of one conversion.

    Examples
    --------
    >>> ConversionConfig(shard_size=500, compression="gz").shard_size
    500
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field("auto", description="name of the source plugin; auto finds it by suffix and content")
    source: dict[str, Any] = Field(default_factory=dict, description="options of the source plugin")
    layout: Literal["windows", "recordings"] = Field(
        "windows",
        description="windows: recordings are cut into samples now; recordings: their streams are stored as they are, "
        "and windows are chosen when they are loaded or converted again",
    )
    windows: WindowOptions = Field(WindowOptions(), description="how continuous recordings are cut into samples")
    transforms: tuple[dict[str, Any], ...] = Field(
        (), description="transforms applied to every sample, in order: their kind and options"
    )
    shard_size: int = Field(1000, ge=1, lt=1 << 53, description="samples per shard")
    shard_bytes: int = Field(
        1 << 30, ge=1, lt=1 << 53, description="bytes of the arrays in a shard of recordings, about"
    )
    piece_bytes: int = Field(
        256 << 20, ge=1, lt=1 << 53, description="bytes of the arrays in one sample of a stored recording, at most"
    )
    shard_name_pattern: str = Field("shard_{shard_idx:06d}.tar", description="how shards are named")
    compression: str | dict[str, Any] = Field("none", description="compression of shards: none, or a plugin's name")
    codec: str = Field("pyd", description="codec of arrays: pyd or npy, or a plugin's name")
    codecs: dict[str, str] = Field(default_factory=dict, description="codec per column, where it differs")
    session_template: str = Field(
        "{session_id}",
        description="session id of each input, made of {session_id}, {subject_id}, {stem}, {parent}; must be unique",
    )
    subject_template: str = Field(
        "{subject_id}",
        description="subject id of each recording, made of {session_id}, {subject_id}, {stem}, {parent}",
    )
    subject_ids: tuple[str, ...] = Field(
        (), description="subject ids of recordings whose files do not say them, each as FILE=ID; may be repeated"
    )
    on_error: Literal["fail", "skip"] = Field("fail", description="stop at an input that fails, or leave it out")
    durable: bool = Field(False, description="sync every shard to the disk before it counts as written")

    @field_validator("subject_ids", mode="before")
    @classmethod
    def _pairs(cls, given: Any) -> Any:
        pairs = tuple(f"{file}={name}" for file, name in given.items()) if isinstance(given, Mapping) else given
        said: dict[str, str] = {}
        for pair in pairs if isinstance(pairs, (list, tuple)) else ():
            if not isinstance(pair, str) or not all(pair.partition("=")):
                raise ValueError(f"{pair!r:.80} is not FILE=ID: the name of an input file, and the subject's id")
            file, _, name = pair.partition("=")
            if said.setdefault(file, name) != name:
                raise ValueError(f"{file!r:.80} has two subjects, {said[file]!r:.40} and {name!r:.40}")
        return pairs

    @field_validator("session_template", "subject_template")
    @classmethod
    def _known_fields(cls, template: str) -> str:
        # A width of a billion, or an attribute, is nothing that a template needs.
        fields = [(name, form, how) for _, name, form, how in Formatter().parse(template) if name is not None]
        for name, form, how in fields:
            if name not in TEMPLATE_FIELDS or form or how:
                raise ValueError(
                    f"unknown field {name!r:.60} in {template!r:.120}; there are "
                    f"{', '.join(f'{{{field}}}' for field in TEMPLATE_FIELDS)}, without formats"
                )
        return template

    @field_validator("transforms", mode="before")
    @classmethod
    def _named_transforms(cls, transforms: Any) -> Any:
        if not isinstance(transforms, (list, tuple)):
            return transforms
        return tuple({"kind": item} if isinstance(item, str) else item for item in transforms)

    @model_validator(mode="before")
    @classmethod
    def _readable_by_all(cls, options: Any) -> Any:
        """Store the arrays of recordings as .npy, which most programs open, unless another codec is asked for."""
        if isinstance(options, dict) and options.get("layout") == "recordings":
            return {"codec": "npy", **options}
        return options

    @model_validator(mode="after")
    def _fits_the_layout(self) -> Self:
        given = self.model_fields_set
        if self.layout == "windows" and given & {"shard_bytes", "piece_bytes"}:
            different = {"shard_bytes", "piece_bytes"} & {
                name for name in given if getattr(self, name) != type(self).model_fields[name].default
            }
            if different:
                raise ValueError(f"{', '.join(sorted(different))} bound stored recordings: say layout=recordings too")
        if self.layout == "recordings" and (self.windows != WindowOptions() or self.transforms):
            raise ValueError(
                "layout=recordings stores streams as they are, without windows or transforms: choose them when the "
                "data set is loaded (windows={...}), or when it is converted to windows"
            )
        return self

    def content(self) -> dict[str, Any]:
        """Return the settings that decide the bytes of a data set, as JSON values."""
        skipped = RUN_FIELDS | (
            RECORDING_FIELDS if self.layout == "windows" else {"windows", "transforms", "shard_size"}
        )
        content = self.model_dump(
            mode="json", exclude={**dict.fromkeys(skipped, True), "source": set(SOURCE_RUN_FIELDS)}
        )
        defaults = {name: getattr(type(self)(), name) for name in SUBJECT_FIELDS}
        return {name: value for name, value in content.items() if getattr(self, name) != defaults.get(name, ...)}

    def like(self, stored: Mapping[str, Any]) -> Self:
        """Return these settings; whether splits are balanced is as in another data set where these do not choose."""
        split, there = self.windows.split, as_stored(stored).get("windows", {}).get("split")
        if split is None or there is None or "balanced" in split.model_fields_set:
            return self
        split = split.model_copy(update={"balanced": there.get("balanced", split.balanced)})
        return self.model_copy(update={"windows": self.windows.model_copy(update={"split": split})})

    @classmethod
    def of(cls, options: dict[str, Any]) -> ConversionConfig:
        """Validate options.

        Raises
        ------
        ConfigError
            Naming every option that is wrong, in one line.
        """
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            from neurofm_shards.plugins.registry import explain  # noqa: PLC0415  (--help needs no registry)

            raise ConfigError(explain(error, cls)) from None


def as_stored(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a data set was made with; the first release assigned sessions by hash alone."""
    windows = options.get("windows") or {}
    split = windows.get("split") if isinstance(windows, Mapping) else None
    if not isinstance(split, Mapping) or "balanced" in split:
        return dict(options)
    return {**options, "windows": {**windows, "split": {**split, "balanced": False}}}


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
