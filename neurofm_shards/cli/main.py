"""The command line: find the command, parse the words once, run it, and turn errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from neurofm_shards._version import __version__
from neurofm_shards.errors import ConfigError, MissingPluginError, NeurofmShardsError, did_you_mean

if TYPE_CHECKING:
    from neurofm_shards.plugins.entries import CommandEntry
    from neurofm_shards.plugins.interfaces import Command

#: Command name to where its :class:`~neurofm_shards.plugins.interfaces.Command` is, and a summary.
COMMANDS: dict[str, tuple[str, str]] = {
    "convert": ("neurofm_shards.cli.convert:Convert", "turn recordings and arrays into shards"),
    "status": ("neurofm_shards.cli.describe:ShowStatus", "show how far a conversion is, by whom and how fast"),
    "inspect": ("neurofm_shards.cli.describe:Inspect", "show what is inside an input file, and what is odd about it"),
    "info": ("neurofm_shards.cli.describe:Info", "summarise a data set or a single shard"),
    "validate": ("neurofm_shards.cli.maintenance:Validate", "check a data set: structure, checksums, codecs, schema"),
    "repair": ("neurofm_shards.cli.maintenance:Repair", "rebuild indexes and manifest, salvage truncated shards"),
    "index": ("neurofm_shards.cli.maintenance:Index", "build the indexes of shards that came from elsewhere"),
    "drop": ("neurofm_shards.cli.maintenance:Drop", "withdraw samples from a data set"),
    "compact": ("neurofm_shards.cli.maintenance:Compact", "join neighbouring shards that are not full"),
    "merge": ("neurofm_shards.cli.maintenance:Merge", "join data sets with equal columns"),
    "split": ("neurofm_shards.cli.split:Split", "divide a data set into train, validation and test samples"),
    "plan": ("neurofm_shards.cli.order:Plan", "show what each rank and worker will get"),
    "shuffle-report": ("neurofm_shards.cli.order:ShuffleReport", "say how random the order of a data set is"),
    "plugins": ("neurofm_shards.cli.plugins:Plugins", "list installed plugins, show one, or start a new one"),
    "schema": ("neurofm_shards.cli.plugins:Schema", "print the JSON Schema of the configuration"),
}

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage of ``convert`` alone fills a screen."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see '{self.prog} --help'")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Answer a misspelt choice with the closest one, and with all of them, in the words of every Python."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            meant = did_you_mean(str(value), known)
            raise argparse.ArgumentError(action, f"{value!r} is no choice{meant}; there are: {', '.join(known)}")


def run(argv: Sequence[str], program: str = "neurofm-shards") -> int:
    """Run one command line and return its exit code: 0 fine, 1 findings, 2 usage, 3 plugins, 130 interrupted."""
    debug, as_json = "--debug" in argv, "--json" in argv
    try:
        return _run(list(argv), program)
    except NeurofmShardsError as error:
        from neurofm_shards.cli.options import in_flags  # noqa: PLC0415  (models, only where something is wrong)

        return _failed(in_flags(str(error)), error.exit_code, debug=debug, as_json=as_json)
    except BrokenPipeError:
        # The reader of our output went away (``| head``). Keep the interpreter from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201  (rich may not be imported yet)
        return INTERRUPTED
    except (OSError, MemoryError) as error:  # the machine's trouble (disk, permissions, memory), not a bug
        return _failed(str(error) or "out of memory", 1, debug=debug, as_json=as_json)
    except Exception as error:  # noqa: BLE001  (the last resort of a program: shown, with the way to see more)
        hint = "" if debug else "; this is a bug in neurofm-shards: run again with --debug to see where"
        return _failed(f"{type(error).__name__}: {error}{hint}", 1, debug=debug, as_json=as_json)


@dataclass(frozen=True)
class Early:
    """What must be known before the parser of a command can be made.

    Attributes
    ----------
    command : str or None
        The first word that is no option.
    format : str or None
        ``--format``: the source whose options become flags.
    config : str or None
        ``--config``: the job file.
    inputs : tuple of str
        ``--input``: the suffixes say which sources' options become flags.
    words : tuple of str
        What else there is, inputs without a flag among it.
    """

    command: str | None = None
    format: str | None = None
    config: str | None = None
    inputs: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def _run(argv: list[str], program: str) -> int:
    early, argv = _early(argv)
    others = {} if early.command in COMMANDS else _commands_of_plugins(early.command)
    parser = _Parser(
        prog="neurofm-shards",
        description="Neuroscience recordings become WebDataset shards; shards become PyTorch batches.",
        epilog="Run 'neurofm-shards COMMAND --help' for the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"neurofm-shards {__version__}")
    _add_global_options(parser, default=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    command: Command | None = None
    chosen: argparse.ArgumentParser = parser
    for name, summary in {**{name: text for name, (_, text) in COMMANDS.items()}, **_summaries(others)}.items():
        prog = program if program != "neurofm-shards" else f"neurofm-shards {name}"
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".", prog=prog)
        _add_global_options(sub, default=argparse.SUPPRESS)
        if name == early.command:
            command, chosen = _made(name), sub
            sub.set_defaults(early=early)
            command.add_arguments(sub)
    args, unknown = _parsed(parser, chosen, argv, early.command or "")
    if unknown:
        hint = "" if any(word.startswith("-") for word in unknown) else getattr(command, "bare_words", "")
        chosen.error(f"unrecognized arguments: {' '.join(_with_close_options(unknown, chosen))}{hint}")
    if command is None:
        parser.print_help()
        return 2
    return command.run(args)


def _parsed(
    parser: argparse.ArgumentParser, command: argparse.ArgumentParser, argv: list[str], name: str
) -> tuple[argparse.Namespace, list[str]]:
    """Parse the words; where a command lacks one because a list before it took it, the list gives it back."""
    try:
        return parser.parse_known_args(argv)
    except ConfigError:
        for words in _given_back(command, argv, argv.index(name) + 1 if name in argv else len(argv)):
            with suppress(ConfigError):
                return parser.parse_known_args(words)
        raise


def _given_back(command: argparse.ArgumentParser, words: list[str], begin: int) -> Iterator[list[str]]:
    """Yield the words with the last of an option's list, as many as a command may need, where its own words begin."""
    actions = command._actions  # noqa: SLF001  (no other way)
    lists = {option: action for action in actions if action.nargs == "+" for option in action.option_strings}
    needed = sum(not action.option_strings and action.nargs not in ("?", "*") for action in actions)
    for at in (i for i in range(begin, len(words)) if words[i] in lists):
        stop = next((i for i in range(at + 1, len(words)) if words[i].startswith("-")), len(words))
        for first in range(stop - 1, max(stop - 1 - needed, at + 1), -1):
            back = words[first:stop]
            if not ("=" in str(lists[words[at]].metavar) and any("=" in word for word in back)):  # pairs stay
                yield [*words[:begin], *back, *words[begin:first], *words[stop:]]


def _with_close_options(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return words that were not understood, each option with the closest that there is."""
    known = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001  (no other way)
    return [word + (did_you_mean(word.partition("=")[0], known) if word.startswith("-") else "") for word in words]


def _early(argv: Sequence[str]) -> tuple[Early, list[str]]:
    """Read what decides which options there are, and return the words without those that every command takes."""
    # Options about plugins take effect here, in worker processes too.
    parser = _Parser(prog="neurofm-shards", add_help=False, allow_abbrev=False)
    _add_global_options(parser, default=None)
    options, words = parser.parse_known_args(argv)
    if options.no_plugins:
        os.environ["NEUROFM_SHARDS_NO_PLUGINS"] = "1"
    if options.strict_plugins:
        os.environ["NEUROFM_SHARDS_STRICT_PLUGINS"] = "1"
    if options.plugin:
        paths = [os.path.abspath(path) for path in options.plugin]  # noqa: PTH100  (pathlib costs start-up time)
        os.environ["NEUROFM_SHARDS_PLUGIN_FILES"] = os.pathsep.join(paths)
    parser = _Parser(prog="neurofm-shards", add_help=False, allow_abbrev=False)
    parser.add_argument("--format")
    parser.add_argument("--config")
    parser.add_argument("-i", "--input", nargs="*", action="extend", default=[])
    said, rest = parser.parse_known_args(words)
    command = next((word for word in rest if not word.startswith("-")), None)
    return Early(command, said.format, said.config, tuple(said.input), tuple(rest)), words


def _made(name: str) -> Command:
    if name not in COMMANDS:
        from neurofm_shards.plugins.registry import registry  # noqa: PLC0415  (after --version)

        return cast("Command", registry().commands.instance(name))
    module, _, attribute = COMMANDS[name][0].partition(":")
    return cast("Command", getattr(importlib.import_module(module), attribute)())


def _commands_of_plugins(word: str | None) -> dict[str, CommandEntry]:
    """Return the commands that plugins register; raise when a word that is no command stands where one should."""
    from neurofm_shards.plugins.registry import registry, unknown_name  # noqa: PLC0415  (after --version)

    known = {item.entry.name: item.entry for item in registry().commands.entries()}
    if word is not None and word not in known:
        raise MissingPluginError(unknown_name("command", word, [*COMMANDS, *known]))
    return known


def _summaries(entries: Mapping[str, CommandEntry]) -> dict[str, str]:
    return {name: entry.summary for name, entry in entries.items()}


def _add_global_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    group = parser.add_argument_group("plugins and debugging")
    switch = False if default is None else default
    group.add_argument("--plugin", action="append", metavar="FILE.py", default=default, help="load a plugin file too")
    group.add_argument("--no-plugins", action="store_true", default=switch, help="load no installed third-party plugin")
    group.add_argument("--strict-plugins", action="store_true", default=switch, help="a broken plugin is an error")
    group.add_argument("--debug", action="store_true", default=switch, help="show tracebacks")


def _failed(error: str, code: int, *, debug: bool, as_json: bool) -> int:
    """Say what is wrong in one line; with ``--json`` also on stdout, where a program reads it."""
    if debug:
        traceback.print_exc()
    if as_json:
        print(json.dumps({"error": error, "exit_code": code}))  # noqa: T201  (whatever else is broken)
    if sys.stderr.isatty():
        from neurofm_shards.cli.console import note_console, print_note  # noqa: PLC0415  (rich)

        print_note(note_console(), error, "error")
    else:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  (one plain line, whatever else is broken)
    return code
