"""``neurofm-shards schema``: JSON Schema of job files and of each plugin's options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from neurofm_shards.cli.output import note_console, print_json
from neurofm_shards.errors import PluginError


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:  # noqa: ARG001
    """Add the command's arguments."""
    parser.add_argument("name", nargs="?", help="a plugin: its options alone")


def run(args: argparse.Namespace) -> int:
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
