"""``plugins`` and ``schema``: what is installed, which options it has, and how to start a plugin of one's own."""

from __future__ import annotations

import argparse
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.markup import escape

from neurofm_shards.cli.console import borderless_table, note_console, print_json, result_console
from neurofm_shards.errors import ConfigError, MissingPluginError, OutputExistsError, PluginError, did_you_mean
from neurofm_shards.plugins.interfaces import Command
from neurofm_shards.plugins.registry import EXTRAS, Registered, registry

_CONFIG = 'config="@package@.@module@:@Class@Config"'


class Plugins(Command):
    """Lists installed plugins, shows one, or starts a new one."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        actions = parser.add_subparsers(dest="action", metavar="list|show|new", required=True)
        listing = actions.add_parser("list", help="all plugins, with distribution and version; broken ones too")
        listing.add_argument("--json", action="store_true", help="machine-readable output")
        show = actions.add_parser("show", help="one plugin and its options")
        show.add_argument("name", help="its name, or distribution/name")
        show.add_argument("--json", action="store_true", help="machine-readable output")
        new = actions.add_parser("new", help="write a distribution with one plugin that works, and its tests")
        new.add_argument("kind", choices=tuple(KINDS), help="what it provides")
        new.add_argument("name", help="its name: lower-case letters, digits and hyphens")
        new.add_argument("-o", "--output", type=Path, default=Path(), help="where its folder is made (default: here)")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; 1 when a plugin is broken."""
        return {"list": _list, "show": _show, "new": _new}[args.action](args)


def _new(args: argparse.Namespace) -> int:
    folder = new_plugin(args.kind, args.name, args.output)
    note_console().print(
        f"wrote {folder}; next: cd {folder} && pip install -e '.[test]' && pytest && "
        f"neurofm-shards plugins show {args.name}",
        markup=False,
    )
    return 0


def _list(args: argparse.Namespace) -> int:
    known = [item for kind in registry().kinds() for item in kind.entries()]
    broken = [plugin for plugin in registry().plugins if plugin.error]
    if args.json:
        print_json(
            {
                "plugins": [_row(item) for item in known],
                "broken": [
                    {"name": p.name, "distribution": p.distribution, "version": p.version, "error": p.error}
                    for p in broken
                ],
            }
        )
    else:
        _print_table(known)
        for plugin in broken:
            named = f"{plugin.distribution} {plugin.version}"
            note_console().print(f"[red]broken[/red]: {escape(named)}: {escape(plugin.error)}")
    return 1 if broken else 0


def _print_table(known: Sequence[Registered[Any]]) -> None:
    console = result_console()
    kinds = dict.fromkeys(item.kind for item in known)
    widest = max(len(item.entry.name) for item in known)
    for kind in kinds:
        console.print(f"[bold]{kind}s[/bold]")
        table = borderless_table("", "", "", wrap=("",))
        table.show_header = False
        table.columns[0].no_wrap, table.columns[0].min_width = True, widest + 2
        table.columns[1].ratio = 1
        table.expand = True
        for item in (each for each in known if each.kind == kind):
            table.add_row(f"  {item.entry.name}", escape(item.entry.summary), f"[dim]{_origin(item)}[/dim]")
        console.print(table)


def _origin(item: Registered[Any]) -> str:
    """Return distribution and version; a plugin file by its name."""
    return escape(" ".join(filter(None, (item.distribution.rpartition("/")[2], item.version))))


def _row(item: Registered[Any]) -> dict[str, str]:
    return {
        "kind": item.kind,
        "name": item.entry.name,
        "summary": item.entry.summary,
        "distribution": item.distribution,
        "version": item.version,
    }


def _show(args: argparse.Namespace) -> int:
    known = [item for kind in registry().kinds() for item in kind.entries()]
    found = [item for item in known if args.name in _names(item)]
    if not found:
        meant = did_you_mean(args.name, (item.entry.name for item in known))
        raise MissingPluginError(
            f"no plugin named {args.name!r} is installed{meant}; 'neurofm-shards plugins list' shows what there is"
        )
    described = [_describe(item) for item in found]
    if args.json:
        print_json(described)
        return 0
    console = result_console()
    for item, facts in zip(found, described, strict=True):
        console.print(f"[bold]{item.kind} {item.entry.name}[/bold]  {item.distribution} {item.version}")
        console.print(item.entry.summary, markup=False)
        _print_options(facts["schema"])
    return 0


def _names(item: Registered[Any]) -> tuple[str, str]:
    return item.entry.name, item.qualified_name


def _describe(item: Registered[Any]) -> dict[str, Any]:
    try:
        model = item.config_model()
    except ConfigError as error:
        raise PluginError(str(error)) from error
    return {**_row(item), "schema": model.model_json_schema() if model else None}


def _print_options(schema: dict[str, Any] | None) -> None:
    properties = {k: v for k, v in (schema or {}).get("properties", {}).items() if k != "kind"}
    if not properties:
        result_console().print("no options")
        return
    table = borderless_table("option", "type", "default", "meaning", wrap=("type", "default", "meaning"))
    for name, facts in properties.items():
        kind = facts.get("type") or " | ".join(str(o.get("type", o.get("$ref", "?"))) for o in facts.get("anyOf", ()))
        table.add_row(name, str(kind), str(facts.get("default", "")), facts.get("description", ""))
    result_console().print(table)


class Schema(Command):
    """Prints the JSON Schema of job files and of each plugin's options."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("name", nargs="?", help="a plugin: its options alone")

    def run(self, args: argparse.Namespace) -> int:
        """Run the command."""
        print_json(_of_plugin(args.name) if args.name else _of_jobs())
        return 0


def _of_plugin(name: str) -> dict[str, Any]:
    short = name.rpartition("/")[2]
    kind = next((kind for kind in registry().kinds() if short in kind.names()), registry().transforms)
    model = kind.get(name).config_model()
    return model.model_json_schema() if model else {"title": name, "type": "object", "properties": {}}


def _of_jobs() -> dict[str, Any]:
    from neurofm_shards.convert.config import ConversionConfig  # noqa: PLC0415  (after --help)

    schema = ConversionConfig.model_json_schema()
    schema["plugins"] = {}
    for kind in registry().kinds():
        models = {}
        for item in kind.entries():
            try:
                model = item.config_model()
            except PluginError as error:
                note_console().print(f"left out: {error}", markup=False)
                continue
            if model is not None:
                models[item.entry.name] = model.model_json_schema()
        schema["plugins"][kind.kind] = models
    return schema


@dataclass(frozen=True)
class _Kind:
    """What differs between kinds of plugins; ``details`` are the entry's other lines, ``tested`` what its tests do."""

    contract: str
    factory: str
    summary: str
    usage: str
    details: tuple[str, ...] = ()
    tested: str = "subclass the conformance suite of `neurofm_shards.testing`"


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
