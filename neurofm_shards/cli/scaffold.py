"""``plugins new``: a distribution with one plugin that works, its tests included."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from neurofm_shards.errors import ConfigError, OutputExistsError
from neurofm_shards.plugins.registry import EXTRAS, registry


@dataclass(frozen=True)
class _Kind:
    """What differs between kinds of plugins; ``details`` are the entry's other lines, ``tested`` what its tests do."""

    contract: str
    factory: str
    summary: str
    usage: str
    details: tuple[str, ...] = ()
    tested: str = "subclass the conformance suite of `neurofm_shards.testing`"


_CONFIG = 'config="@package@.@module@:@Class@Config"'
KINDS: Mapping[str, _Kind] = {
    "source": _Kind(
        "`neurofm_shards.plugins.interfaces.Source`", "@Class@", "numbers in text files, one sample per line",
        "neurofm-shards convert -i numbers.@name@ -o shards", (_CONFIG, 'suffixes=(".@name@",)'),
    ),
    "codec": _Kind(
        "`neurofm_shards.plugins.interfaces.Codec`", "@Class@", "fractions, as text",
        'WebDatasetWriter("shards", codecs={"ratio": "@name@"})  # in Python', ('extension="@extension@"',),
    ),
    "compression": _Kind(
        "`neurofm_shards.plugins.interfaces.Compression`", "@Class@", "LZMA; random access",
        "neurofm-shards convert -i data.npz -o shards --compression @name@",
        (_CONFIG, 'suffix=".@extension@"', 'magic=b"\\x5d"'),
    ),
    "transform": _Kind(
        "`neurofm_shards.plugins.interfaces.Transform`", "@Class@", "multiply a field by a number",
        """neurofm-shards convert -i data.npz -o shards --transform '{"kind": "@name@", "field": "spikes"}'""",
        (_CONFIG,),
    ),
    "executor": _Kind(
        "`concurrent.futures.Executor`", "make_@module@", "a pool of threads",
        "neurofm-shards convert -i data.npz -o shards --executor @name@ --workers 2", (_CONFIG,),
    ),
    "command": _Kind(
        "`neurofm_shards.plugins.interfaces.Command`", "@Class@", "count the samples of data sets",
        "neurofm-shards @name@ shards", tested="run it as a user does",
    ),
}  # fmt: skip


def new_plugin(kind: str, name: str, parent: Path) -> Path:
    """Write a distribution that provides one plugin.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    name : str
        The plugin's name: lower-case letters, digits and hyphens.
    parent : Path
        Where the folder of the distribution is made.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ConfigError
        The name cannot be that of a plugin and of a Python module, or is taken.
    OutputExistsError
        The folder is there already.
    """
    words = _words(kind, name)
    if name in _taken(kind):
        raise ConfigError(f"{name!r} is the name of another {kind}, or of a distribution of ours: choose another name")
    folder = parent / words["distribution"]
    if folder.exists():
        raise OutputExistsError(f"{folder} exists already: choose another name, or remove it")
    for template, path in _files(kind, words).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_filled(template, words), encoding="utf-8")
    return folder


def _taken(kind: str) -> set[str]:
    """Return the names that would hide another plugin of a kind, or replace one of our distributions."""
    from neurofm_shards.cli.main import COMMANDS  # noqa: PLC0415  (it names the module that imports this one)

    known = next(names for names in registry().kinds() if names.kind == kind).names()
    ours = (name for provided in EXTRAS.values() for name in provided.get(kind, ()))
    return {*EXTRAS, *known, *ours, *(COMMANDS if kind == "command" else ())}


def _words(kind: str, name: str) -> dict[str, str]:
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise ConfigError(
            f"{name!r} cannot be a plugin's name: use lower-case letters, digits and hyphens, as in my-{kind}"
        )
    about = KINDS[kind]
    words = {
        "kind": kind, "name": name, "module": module, "distribution": f"neurofm-shards-{name}",
        "package": f"neurofm_shards_{module}", "Class": "".join(map(str.capitalize, name.split("-"))),
        "extension": name.replace("-", ""), "contract": about.contract, "entry": f"{kind.capitalize()}Entry",
        "summary": about.summary, "factory": about.factory, "usage": about.usage, "tested": about.tested,
        "details": "".join(f"        {line},\n" for line in about.details),
    }  # fmt: skip
    return {word: _replaced(text, words) for word, text in words.items()}


def _files(kind: str, words: Mapping[str, str]) -> dict[str, str]:
    source = f"src/{words['package']}"
    return {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "plugin.py": f"{source}/plugin.py",
        f"{kind}.py": f"{source}/{words['module']}.py",
        f"{kind}_test.py": f"tests/test_{words['module']}.py",
        "": f"{source}/__init__.py",
        "py.typed": f"{source}/py.typed",
    }


def _filled(template: str, words: Mapping[str, str]) -> str:
    if template == "py.typed":
        return ""
    if not template:
        return f'"""{words["summary"][0].upper()}{words["summary"][1:]}: a plugin of neurofm-shards."""\n'
    text = (files("neurofm_shards.cli") / "templates" / f"{template}.tmpl").read_text(encoding="utf-8")
    return _replaced(text, words)


def _replaced(text: str, words: Mapping[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], text)
