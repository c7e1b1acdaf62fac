"""``plugins`` and ``schema``: what is installed, which options it has, and how to start a plugin."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from neurofm_shards.cli.console import borderless_table, note_console, print_json, result_console
from neurofm_shards.cli.scaffold import KINDS, new_plugin
from neurofm_shards.errors import ConfigError, MissingPluginError, PluginError, did_you_mean
from neurofm_shards.plugins.interfaces import Command

if TYPE_CHECKING:
    from neurofm_shards.plugins.registry import Registered


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
    from neurofm_shards.plugins.registry import registry  # noqa: PLC0415  (after --help)

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
    from neurofm_shards.plugins.registry import registry  # noqa: PLC0415  (after --help)

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
    from neurofm_shards.plugins.registry import registry  # noqa: PLC0415  (after --help)

    short = name.rpartition("/")[2]
    kind = next((kind for kind in registry().kinds() if short in kind.names()), registry().transforms)
    model = kind.get(name).config_model()
    return model.model_json_schema() if model else {"title": name, "type": "object", "properties": {}}


def _of_jobs() -> dict[str, Any]:
    from neurofm_shards.convert.config import ConversionConfig  # noqa: PLC0415  (after --help)
    from neurofm_shards.plugins.registry import registry  # noqa: PLC0415

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
