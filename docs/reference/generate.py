"""Writes the pages of this folder from the code: hooks, options of a conversion, command line.

`python docs/reference/generate.py` writes them; with `--check` it says which are out of date, and exits with 1.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
NOTE = "<!-- Made by docs/reference/generate.py; do not edit. -->\n"


def hooks() -> str:
    """Return the page of hooks."""
    from neurofm_shards.plugins import hookspecs

    intro = (
        f"Entry-point group: `{hookspecs.ENTRY_POINT_GROUP}`. "
        "[Write a plugin](../PLUGIN_TUTORIAL.md) shows them in use."
    )
    lines = ["# Hooks", "", intro, ""]
    for name, function in vars(hookspecs).items():
        if name.startswith("neurofm_"):
            text = inspect.getdoc(function)
            if not text:
                raise SystemExit(f"the hook {name} has no docstring")
            arguments = ", ".join(inspect.signature(function).parameters)
            lines += [f"## `{name}({arguments})`", "", text, ""]
    return "\n".join(lines)


def options() -> str:
    """Return the page of job files: the conversion's options and those of windows."""
    from neurofm_shards.convert.config import ConversionConfig
    from neurofm_shards.recordings.options import WindowOptions

    intro = (
        "Keys of a job file (`--config job.toml`), and flags of `convert`. Options of a plugin: "
        "`neurofm-shards plugins show NAME`."
    )
    lines = ["# Options of a conversion", "", intro, ""]
    for title, model in (("Data set", ConversionConfig), ("`[windows]`", WindowOptions)):
        schema = model.model_json_schema()
        lines += [f"## {title}", "", *_table(schema["properties"]), ""]
        if model is WindowOptions:
            for name, part in schema.get("$defs", {}).items():
                lines += [f"### {name}", "", part.get("description", ""), "", *_table(part.get("properties", {})), ""]
    return "\n".join(lines)


def _table(properties: dict[str, Any]) -> Iterator[str]:
    yield "| option | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, facts in properties.items():
        default = f"`{facts['default']}`" if "default" in facts and "$ref" not in facts else ""
        yield f"| `{name}` | {_type(facts)} | {_cell(default)} | {_cell(facts.get('description', ''))} |"


def _type(facts: dict[str, Any]) -> str:
    if "enum" in facts:
        return ", ".join(f"`{choice}`" for choice in facts["enum"])
    if "anyOf" in facts:
        return " or ".join(dict.fromkeys(_type(choice) for choice in facts["anyOf"]))
    return str(facts.get("type") or facts.get("const") or facts.get("$ref", "any").rpartition("/")[2])


def commands() -> str:
    """Return the page of commands."""
    from neurofm_shards.cli.main import COMMANDS
    from neurofm_shards.plugins.registry import EXTRAS

    intro = (
        "Every command also takes `--plugin FILE.py`, `--no-plugins`, `--strict-plugins` and `--debug`. Exit codes: 0 "
        "fine, 1 findings or failed inputs, 2 usage or configuration, 3 plugin missing or broken, 130 interrupted."
    )
    lines = ["# Command line", "", intro, ""]
    for name, (home, summary) in COMMANDS.items():
        parser = argparse.ArgumentParser(add_help=False)
        module, _, attribute = home.partition(":")
        getattr(importlib.import_module(module), attribute)().add_arguments(parser)
        lines += [f"## `neurofm-shards {name}`", "", f"{summary[0].upper()}{summary[1:]}.", "", *_arguments(parser), ""]
    extras = {name: extra for extra, provided in EXTRAS.items() for name in provided.get("command", ())}
    lines += ["## Commands of plugins", "", "`neurofm-shards COMMAND --help` lists their arguments.", ""]
    lines += ["| command | comes with |", "|---|---|"]
    lines += [f"| `{name}` | `pip install 'neurofm-shards[{extra}]'` |" for name, extra in extras.items()]
    return "\n".join(lines)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield "| argument | meaning |"
    yield "|---|---|"
    for action in parser._actions:  # noqa: SLF001  (argparse offers no other way)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  (as above)
            for name, sub in action.choices.items():
                for inner in sub._actions[1:]:  # noqa: SLF001  (without --help)
                    yield _argument(inner, f"{name} ")
        else:
            yield _argument(action, "")


def _argument(action: argparse.Action, before: str) -> str:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    choices = [str(choice) for choice in action.choices or ()]
    meaning = (action.help or "").replace("%%", "%")
    if ", ".join(choices) not in meaning:
        meaning += f"; one of {', '.join(choices)}"
    return f"| `{before}{names}` | {_cell(meaning)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {"hooks.md": hooks, "options.md": options, "commands.md": commands}


def main() -> int:
    """Write or check the pages."""
    os.environ["NEUROFM_SHARDS_NO_PLUGINS"] = "1"
    stale = []
    for name, make in PAGES.items():
        text = NOTE + "\n" + make().rstrip() + "\n"
        path = FOLDER / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run python docs/reference/generate.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
