"""Command-line flags made from pydantic models, so that a model is written once, and messages that name those flags.

Only flags that were given reach the model: defaults stay the model's own. Messages name options as Python does, until
:func:`in_flags` puts flags in their place.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import types
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from neurofm_shards.convert.config import FLAGS, ConversionConfig
from neurofm_shards.errors import ConfigError
from neurofm_shards.recordings.options import BehaviorOptions, SeriesOptions, SplitOptions, WindowOptions

_SCALARS = (int, float, str)
#: Settings without a flag of their own.
_WITHOUT_FLAG = frozenset({"source", "windows", "transforms"})
#: What else is an argument of the Python calls: how a result is written, and where, or what data sets are joined.
_ARGUMENTS = ("staging", "workers", "retries", "executor", "on_different")
_VALUE = r"\"[^\"]*\"|'[^']*'|\[[^\]]*\]|\{[^}]*\}|[\w%]+(?:[.,:-][\w%]+)*"

_SOURCE = re.compile(r"(?<![\w.])source=\{([^}]*)\}")
_ITEM = re.compile(rf"'(\w+)': ({_VALUE})")


class ModelFlags:
    """The flags of one model, on one parser.

    Parameters
    ----------
    model : type of BaseModel
        Its fields become flags: ``bin_size_ms`` is ``--bin-size-ms``.
    section : str
        Distinguishes models whose fields have equal names.
    skip : collection of str
        Fields that get no flag.
    called : mapping of str to str
        Flags that are not called as their field is; both spellings are taken.
    defaults : mapping of str to object
        Defaults, for the help, that differ from the model's.

    Examples
    --------
    >>> class Options(BaseModel):
    ...     rate: float = 1.0
    >>> flags = ModelFlags(Options, "demo")
    >>> parser = argparse.ArgumentParser()
    >>> flags.add_to(parser.add_argument_group("demo"))
    >>> flags.given(parser.parse_args(["--rate", "2"]))
    {'rate': 2.0}
    """

    def __init__(
        self,
        model: type[BaseModel],
        section: str,
        skip: Collection[str] = (),
        called: Mapping[str, str] = types.MappingProxyType({}),
        defaults: Mapping[str, object] = types.MappingProxyType({}),
    ) -> None:
        self._section = section
        self._called = called
        self._defaults = defaults
        self._fields = {name: field for name, field in model.model_fields.items() if name not in skip}

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        """Add the flags; one whose name is taken is called ``--SECTION-NAME``."""
        for name, field in self._fields.items():
            flag = name.replace("_", "-")
            flags = [f"--{self._called[name]}", f"--{flag}"] if name in self._called else [f"--{flag}"]
            settings = _settings(field, self._defaults.get(name, field.get_default(call_default_factory=True)))
            try:
                group.add_argument(*flags, dest=self._dest(name), default=argparse.SUPPRESS, **settings)
            except argparse.ArgumentError:
                group.add_argument(
                    f"--{self._section}-{flag}", dest=self._dest(name), default=argparse.SUPPRESS, **settings
                )

    def given(self, args: argparse.Namespace) -> dict[str, Any]:
        """Return the values of the flags that were given, by field name."""
        values = vars(args)
        return {name: values[self._dest(name)] for name in self._fields if self._dest(name) in values}

    def _dest(self, name: str) -> str:
        return f"{self._section}:{name}"


def source_names(inputs: Sequence[str], named: str) -> list[str]:
    """Return the sources that inputs need, as far as ``--format`` and suffixes say."""
    if not inputs and named == "auto":
        return []
    from neurofm_shards.plugins.registry import registry  # noqa: PLC0415  (--help needs it only where inputs are named)

    if named != "auto":
        return [registry().sources.get(named).entry.name]
    suffixes = [text.lower().rstrip("/") for text in inputs] + _suffixes_inside(inputs)
    return [
        item.entry.name
        for item in registry().sources.entries()
        if any(text.endswith(suffix) for suffix in item.entry.suffixes for text in suffixes)
    ]


def _suffixes_inside(inputs: Sequence[str]) -> list[str]:
    folders = [Path(text) for text in inputs if Path(text).is_dir()]
    return sorted({path.suffix.lower() for folder in folders for path in folder.rglob("*") if path.suffix})


def source_flags(names: Sequence[str]) -> dict[str, ModelFlags]:
    """Return the flags of some sources' options, by source."""
    if not names:
        return {}
    from neurofm_shards.plugins.registry import registry  # noqa: PLC0415  (see above)

    models = {name: registry().sources.get(name).config_model() for name in names}
    return {name: ModelFlags(model, name, skip=("kind",)) for name, model in models.items() if model is not None}


def given_source(sources: Mapping[str, ModelFlags], args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a source that were given, with its name as ``kind`` (raises ConfigError)."""
    found = {name: values for name, flags in sources.items() if (values := flags.given(args))}
    if len(found) > 1:
        raise ConfigError(f"options of the sources {' and '.join(map(repr, found))} cannot be mixed")
    return next(({"kind": name, **values} for name, values in found.items()), {})


def _settings(field: FieldInfo, default: object) -> dict[str, Any]:
    settings = _parsing(_without_none(field.annotation))
    description = (field.description or "").replace("%", "%%")
    shown = _shown(default)
    if "choices" in settings and "nargs" in settings:
        settings["metavar"] = "NAME"
        description += ": " + ", ".join(settings["choices"])
    description += _said_of_json(_without_none(field.annotation))
    settings["help"] = f"{description} (default: {shown})" if shown else description
    return settings


def _said_of_json(annotation: Any) -> str:
    """Describe what goes into a flag that takes a whole model, or a list of them."""
    either = get_origin(annotation) in (Union, types.UnionType)
    listed = get_origin(annotation) is tuple
    model = get_args(annotation)[0] if listed or either else annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    what = "a list of objects" if listed else "an object, or a list of them," if either else "an object"
    return f"; as JSON: {what} with {', '.join(model.model_fields)}"


def _shown(default: Any) -> str:
    if default in (None, (), {}) or isinstance(default, BaseModel):
        return ""
    return str(default).replace("%", "%%")


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return members[0] if len(members) == 1 else Union[tuple(members)]  # noqa: UP007  (made at run time)
    return annotation


def _parsing(annotation: Any) -> dict[str, Any]:
    origin, members = get_origin(annotation), get_args(annotation)
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if annotation in _SCALARS:
        return {"type": annotation, "metavar": annotation.__name__.upper()}
    if origin is Literal:
        return {"choices": list(members)}
    if origin is tuple and _is_plain(members[0]):
        many = {"nargs": "+", "action": "extend"} if members[-1] is Ellipsis else {"nargs": len(members)}
        return {**_parsing(members[0]), **many}
    if origin is tuple and str in get_args(members[0]):
        return {"type": _text_or_object, "metavar": "NAME", "nargs": "+", "action": "extend"}
    return {"type": _json_or_text, "metavar": "JSON" if origin not in (Union, types.UnionType) else "VALUE"}


def _is_plain(annotation: Any) -> bool:
    return annotation in _SCALARS or get_origin(annotation) is Literal


def _text_or_object(text: str) -> Any:
    return _json_or_text(text) if text.startswith("{") else text


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def in_flags(text: str) -> str:
    """Return a message with the flags of the command line for Python's names of options.

    Examples
    --------
    >>> in_flags("say missing=skip, or leave it out of modalities; min_valid_fraction drops such windows")
    'say --missing skip, or leave it out of modalities; --min-valid-fraction drops such windows'
    >>> print(in_flags("ophys.path=PATH takes another, mode='append' adds it"))
    --ophys '{"path": "PATH"}' takes another, --append adds it
    >>> print(in_flags("lfp.path='raw' matches nothing; name modalities=[NAME, ...]"))
    --lfp '{"path": "raw"}' matches nothing; name --modalities NAME ...
    """
    modes, nested, given, bare = _patterns()
    text = _SOURCE.sub(_source_flags, text)
    text = modes.sub(r"--\1", text).replace("overwrite=True", "--overwrite")
    text = nested.sub(lambda found: f"{_flag(found[1])} '{json.dumps({found[2]: _value(found)})}'", text)
    text = given.sub(lambda found: f"{_flag(found[1])} {_words(*found.groups())}", text)
    return bare.sub(lambda found: _flag(found[1]), text)


def _value(found: re.Match[str]) -> Any:
    """Return the value that a nested option is said to have, or a word in its place."""
    try:
        return ast.literal_eval(found[3]) if found[3] else found[2].upper()
    except (SyntaxError, ValueError):
        return found[3]


def _source_flags(found: re.Match[str]) -> str:
    """Return options of a source as flags; one that is called like a setting has its source's name before it."""
    flags = []
    for name, value in _ITEM.findall(found[1]):
        owner = _owner(name) if name in _names() else ""
        words = value[1:-1].replace(",", "") if value.startswith("[") else _said(value)
        flags.append(f"{_flag(f'{owner}_{name}' if owner else name)} {words}")
    return " ".join(flags)


def _owner(name: str) -> str:
    """Return the first source that has an option of this name."""
    from neurofm_shards.plugins.registry import registry  # noqa: PLC0415  (--help needs it only where inputs are named)

    known = registry().sources
    models = {item.entry.name: known.get(item.entry.name).config_model() for item in known.entries()}
    return next((source for source, model in models.items() if model is not None and name in model.model_fields), "")


def _names() -> set[str]:
    return {*ConversionConfig.model_fields, *WindowOptions.model_fields, *_ARGUMENTS} - _WITHOUT_FLAG


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    names = _names()
    either = "|".join(sorted(names, key=len, reverse=True))
    inner = "|".join({*SeriesOptions.model_fields, *BehaviorOptions.model_fields, *SplitOptions.model_fields})
    long = "|".join(sorted((name for name in names if "_" in name), key=len, reverse=True))
    return (
        re.compile(r"(?<![\w.])mode=[\"'](append|overwrite|resume)[\"']"),
        re.compile(rf"(?<![\w./-])(lfp|ophys|behavior|split)\.({inner})(?:=({_VALUE}))?(?!\w|[./]\w|=)"),
        re.compile(rf"(?<![\w./-])({either})=({_VALUE})"),
        re.compile(rf"(?<![\w./'\"-])({long})(?![\w./='\"])"),
    )


def _flag(name: str) -> str:
    return f"--{FLAGS.get(name) or name.replace('_', '-')}"


def _words(name: str, value: str) -> str:
    """Return the value of an option as a shell takes it; a list as words, where the flag takes several."""
    field = WindowOptions.model_fields.get(name) or ConversionConfig.model_fields.get(name)
    takes_words = field is not None and "nargs" in _parsing(_without_none(field.annotation))
    return value[1:-1].replace(",", "") if takes_words and value.startswith("[") else _said(value)


def _said(value: str) -> str:
    """Return a value as a shell takes it: words without quotes, JSON in them, several words one by one."""
    if value.startswith(("[", "{")):
        return "'" + value.replace("'", '"') + "'"
    plain = value.strip("\"'")
    return plain.replace(",", " ") if re.fullmatch(r"[\w%.,:-]+", plain) else value
