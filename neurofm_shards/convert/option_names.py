"""Names of options in the caller's words: messages have those of Python, and the command line shows flags instead."""

from __future__ import annotations

import json
import re
from functools import cache

from neurofm_shards.convert.config import FLAGS, ConversionConfig
from neurofm_shards.plugins.registry import registry
from neurofm_shards.recordings.options import BehaviorOptions, SeriesOptions, SplitOptions, WindowOptions

#: Settings without a flag of their own.
_WITHOUT_FLAG = frozenset({"source", "windows", "transforms"})
#: How the result is written, and where, which are arguments of the Python calls.
_ARGUMENTS = ("staging", "workers", "retries", "executor")
_VALUE = r"\"[^\"]*\"|'[^']*'|\[[^\]]*\]|\{[^}]*\}|[\w%]+(?:[.,:-][\w%]+)*"

_SOURCE = re.compile(r"(?<![\w.])source=\{([^}]*)\}")
_ITEM = re.compile(rf"'(\w+)': ({_VALUE})")


def in_flags(text: str) -> str:
    """Return a message with the flags of the command line for Python's names of options.

    Examples
    --------
    >>> in_flags("say missing=skip, or leave it out of modalities; min_valid_fraction drops such windows")
    'say --missing skip, or leave it out of modalities; --min-valid-fraction drops such windows'
    >>> print(in_flags("ophys.path=PATH takes another, mode='append' adds it"))
    --ophys '{"path": "PATH"}' takes another, --append adds it
    """
    modes, nested, given, bare = _patterns()
    text = _SOURCE.sub(_source_flags, text)
    text = modes.sub(r"--\1", text)
    text = nested.sub(lambda found: f"{_flag(found[1])} '{json.dumps({found[2]: found[3] or found[2].upper()})}'", text)
    text = given.sub(lambda found: f"{_flag(found[1])} {_said(found[2])}", text)
    return bare.sub(lambda found: _flag(found[1]), text)


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


def _said(value: str) -> str:
    """Return a value as a shell takes it: words without quotes, JSON in them, several words one by one."""
    if value.startswith(("[", "{")):
        return "'" + value.replace("'", '"') + "'"
    plain = value.strip("\"'")
    return plain.replace(",", " ") if re.fullmatch(r"[\w%.,:-]+", plain) else value
