"""``convert``: inputs become a data set."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurofm_shards._process import prepare_forkserver
from neurofm_shards._wording import counted
from neurofm_shards.cli.options import ModelFlags, given_source, source_flags, source_names
from neurofm_shards.convert.config import FLAGS, ConversionConfig, Job, read_job
from neurofm_shards.errors import ConfigError, OutputExistsError, OutputLockedError
from neurofm_shards.plugins.interfaces import Command
from neurofm_shards.recordings.options import WindowOptions

if TYPE_CHECKING:
    from neurofm_shards.cli.main import Early
    from neurofm_shards.convert.dispatch import ExecutorChoice
    from neurofm_shards.convert.session import Mode
    from neurofm_shards.maintenance.validate import Report

_OWN_FIELDS = ("source", "windows", "transforms")
#: Settings that differ from those of the Python calls.
_DEFAULTS = {"durable": True}
_MODES: tuple[Mode, ...] = ("overwrite", "resume", "append")


@dataclass(frozen=True)
class _Flags:
    """The flags that are made from models: settings, windows, and the options of the sources that inputs need."""

    config: ModelFlags
    windows: ModelFlags
    sources: Mapping[str, ModelFlags]

    @classmethod
    def of(cls, source_names: Sequence[str]) -> _Flags:
        return cls(
            ModelFlags(ConversionConfig, "conversion", skip=_OWN_FIELDS, called=FLAGS, defaults=_DEFAULTS),
            ModelFlags(WindowOptions, "windows"),
            source_flags(source_names),
        )

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        self.config.add_to(parser.add_argument_group("data set"))
        self.windows.add_to(parser.add_argument_group("windows (of continuous recordings)"))
        for name, flags in self.sources.items():
            flags.add_to(parser.add_argument_group(f"source {name}"))

    def given(self, args: argparse.Namespace) -> dict[str, Any]:
        """Return the options that were given, nested as in the model."""
        options = self.config.given(args)
        windows = self.windows.given(args)
        if windows:
            options["windows"] = windows
        if source := given_source(self.sources, args):
            options["source"] = source
        if args.transform:
            options["transforms"] = [_name_or_json("--transform", text) for text in args.transform]
        return options


class Convert(Command):
    """Turns recordings and arrays into shards."""

    #: Said of words that no flag takes.
    bare_words = " (inputs are given with -i, the output folder with -o)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments; those of sources are made from the plugins that the inputs need."""
        early: Early | None = parser.get_default("early")
        job = read_job(early.config) if early is not None and early.config else Job()
        inputs = list(early.inputs if early is not None else ()) or job.input
        named = (early.format if early is not None else None) or str(job.settings.get("format", "auto"))
        flags = _Flags.of(source_names(inputs, named))
        parser.set_defaults(job=job, flags=flags)
        _add_inputs(parser)
        _add_running(parser.add_argument_group("running"))
        _add_parts(parser.add_argument_group("parts (on many machines, without a coordinator)"))
        flags.add_to(parser)
        if not flags.sources:
            parser.epilog = "Options of a source are shown and understood when --format or an input names it."

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; 1 when an input failed or validation found something."""
        request = _Request.of(args)
        if args.plan_only or args.part or args.commit:
            return _run_parts(args, request)
        if not request.inputs:
            raise ConfigError("name the inputs: -i FILES, FOLDERS or PATTERNS")
        if args.dry_run:
            return _dry_run(args, request)
        if not request.output:
            raise ConfigError("name the output folder: -o DIR")
        return _convert(args, request)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", "--input", nargs="+", action="extend", metavar="INPUT", help="files, folders or (quoted) patterns"
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the data set")
    parser.add_argument("--config", metavar="JOB.toml", help="settings from a file; flags go before it")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--overwrite", action="store_true", help="replace the data set that is there, when this is whole")
    mode.add_argument("--resume", action="store_true", help="go on with an interrupted conversion; retry failed inputs")
    mode.add_argument("--append", action="store_true", help="add inputs that the data set does not hold yet")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and make nothing")
    parser.add_argument("--validate", action="store_true", help="check the data set when it is finished")
    parser.add_argument("--json", action="store_true", help="machine-readable result")
    parser.add_argument(
        "--transform", action="append", metavar="NAME|JSON", help='name, or {"kind": NAME, options}; may be repeated'
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-w", "--workers", type=int, metavar="N", help="how many shards are written at once (default: 1)"
    )
    group.add_argument(
        "--executor",
        metavar="NAME|JSON",
        help='where: name, or {"kind": NAME, options} (default: processes for several workers)',
    )
    group.add_argument(
        "-x",
        dest="executor_options",
        action="append",
        metavar="OPTION=VALUE",
        default=[],
        help="an option of the executor; may be repeated",
    )
    group.add_argument(
        "--retries", type=int, metavar="N", help="how often what a lost worker did is redone (default: 2)"
    )
    group.add_argument(
        "--staging",
        choices=("shared", "local"),
        help="where workers write: into the output folder, which all see (default), or on their own disks, handing "
        "shards back",
    )
    group.add_argument("--events", metavar="FILE", help="append what happens to a file, as lines of JSON")


def _add_parts(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--plan-only",
        action="store_true",
        help="write the plan into the output, for --part; with --part, plan that part of the inputs; without inputs, "
        "join the parts",
    )
    group.add_argument("--parts", type=int, metavar="N", help="how many parts there are, for --plan-only (default: 1)")
    group.add_argument(
        "--part",
        metavar="K/N|auto",
        help="write part K of N of the planned shards, K from 1; auto takes K from the job array or launcher",
    )
    group.add_argument("--commit", action="store_true", help="see that all parts are there, and finish the data set")


@dataclass(frozen=True)
class _Request:
    """What is asked for, by flags and job file together."""

    inputs: list[str]
    output: str | None
    config: ConversionConfig
    running: Mapping[str, Any]

    @classmethod
    def of(cls, args: argparse.Namespace) -> _Request:
        job: Job = args.job
        config = ConversionConfig.of({**_DEFAULTS, **_merged(job, args.flags.given(args))})
        workers = args.workers if args.workers is not None else job.workers
        if workers < 1:
            raise ConfigError(f"--workers must be at least 1, not {workers}")
        running = {"workers": workers, "executor": _executor(args.executor, args.executor_options, job.executor)}
        running |= {name: getattr(args, name) for name in ("retries", "staging") if getattr(args, name) is not None}
        return cls(args.input or job.input, args.output or job.output, config, running)


def _convert(args: argparse.Namespace, request: _Request) -> int:
    from neurofm_shards.cli.progress import conversion_listener  # noqa: PLC0415  (rich)

    output = str(request.output)
    mode: Mode = next((mode for mode in _MODES if getattr(args, mode)), "new")
    if request.running["workers"] > 1 and request.running["executor"] is None:
        prepare_forkserver()  # it imports what workers need while this process does
    try:
        with conversion_listener(args.events) as observer:
            from neurofm_shards.convert.session import convert_inputs  # noqa: PLC0415  (takes a second: with a bar)

            result = convert_inputs(
                request.inputs, output, request.config, mode=mode, observer=observer, **request.running
            )
    except (OutputExistsError, OutputLockedError):
        raise  # says itself what to do; the same command would be another conversion
    except (KeyboardInterrupt, OSError, MemoryError):
        if any(Path(output).glob(".neurofm/**/journal")):  # that of a replacement lies deeper
            sys.stderr.write(f"finished shards are kept: run the same command with --resume to go on in {output}\n")
        raise
    report = _validated(output, request.running["workers"]) if args.validate else None
    return _finish(result, report, as_json=args.json)


def _finish(result: Mapping[str, Any], report: Report | None, *, as_json: bool) -> int:
    """Print what was made, and what validation found where it was asked for."""
    from neurofm_shards.cli.convert_report import print_summary  # noqa: PLC0415  (rich, numpy)

    print_summary(result if report is None else {**result, "validation": report.to_json()}, as_json=as_json)
    if report is not None and not as_json:
        from neurofm_shards.cli.maintenance import print_validation  # noqa: PLC0415  (after --help)

        print_validation(report)
    return 1 if result["new_failures"] or not (report is None or report.ok) else 0


def _run_parts(args: argparse.Namespace, request: _Request) -> int:
    """Run the steps of a conversion in parts."""
    wrong = next((flag for flag in ("resume", "append", "dry_run") if getattr(args, flag)), None)
    if wrong or (args.overwrite and not args.plan_only) or (args.commit and (args.part or args.plan_only)):
        raise ConfigError("--plan-only, --part and --commit are steps of one conversion: give them alone, one by one")
    if not request.output:
        raise ConfigError("name the output folder: -o DIR")
    if args.plan_only:
        return _plan_parts(args, request)
    if args.input:
        raise ConfigError("the plan says which inputs there are: leave -i out")
    return _commit_parts(args, request) if args.commit else _run_part(args, request)


def _plan_parts(args: argparse.Namespace, request: _Request) -> int:
    from neurofm_shards.cli.progress import conversion_listener  # noqa: PLC0415  (rich)

    output, parts = str(request.output), args.parts or 1
    running = {name: request.running[name] for name in ("workers", "executor")}
    with conversion_listener(args.events) as observer:
        from neurofm_shards.convert.parts import Part, join_parts, plan_part, plan_parts  # noqa: PLC0415  (with a bar)

        if not request.inputs:
            header = join_parts(output, parts=parts)
        elif args.part:
            part = Part.parse(args.part, args.parts, os.environ)
            count = plan_part(request.inputs, output, request.config, part, **running, observer=observer)
            _say(args, f"part {part} of the planning: {counted(count, 'input')}", {"inputs": count})
            return 0
        else:
            options = {"parts": parts, "overwrite": args.overwrite, "observer": observer}
            header = plan_parts(request.inputs, output, request.config, **options, **running)
    facts = {name: getattr(header, name) for name in ("total_inputs", "total_samples", "total_shards", "parts")}
    numbers = {"input": header.total_inputs, "sample": header.total_samples, "shard": header.total_shards}
    said = ", ".join(counted(number, what) for what, number in numbers.items())
    _say(args, f"planned in {output}: {said} in {counted(header.parts, 'part')}", facts)
    return 0


def _run_part(args: argparse.Namespace, request: _Request) -> int:
    from neurofm_shards.cli.progress import conversion_listener  # noqa: PLC0415  (rich)

    output = str(request.output)
    with conversion_listener(args.events) as observer:
        from neurofm_shards.convert.parts import Part, check_options, run_part  # noqa: PLC0415  (with a bar)

        header = check_options(output, _merged(args.job, args.flags.given(args)))
        part = Part.parse(args.part, header.parts, os.environ)
        count = run_part(output, part, **request.running, observer=observer)
    _say(args, f"part {part} is finished: {counted(count, 'shard')} written in {output}", {"shards": count})
    return 0


def _commit_parts(args: argparse.Namespace, request: _Request) -> int:
    from neurofm_shards.cli.progress import conversion_listener  # noqa: PLC0415  (rich)

    output = str(request.output)
    with conversion_listener(args.events) as observer:
        from neurofm_shards.convert.parts import check_options, commit_parts  # noqa: PLC0415  (with a bar)

        check_options(output, _merged(args.job, args.flags.given(args)))
        result = commit_parts(output, observer=observer)
    report = _validated(output, request.running["workers"]) if args.validate else None
    return _finish(result, report, as_json=args.json)


def _say(args: argparse.Namespace, text: str, facts: Mapping[str, Any]) -> None:
    from neurofm_shards.cli.console import print_json, result_console  # noqa: PLC0415  (after --help)

    if args.json:
        print_json(dict(facts))
    else:
        result_console().print(text, markup=False)


def _validated(output: str, workers: int) -> Report:
    from neurofm_shards.cli.maintenance import check_folder  # noqa: PLC0415  (after --help)

    return check_folder(output, workers=workers)


def _dry_run(args: argparse.Namespace, request: _Request) -> int:
    from neurofm_shards.cli.progress import conversion_listener  # noqa: PLC0415  (rich)

    with conversion_listener(args.events) as listener:
        from neurofm_shards.cli.convert_report import print_preview  # noqa: PLC0415  (with a bar)
        from neurofm_shards.convert.dispatch import dispatcher  # noqa: PLC0415
        from neurofm_shards.convert.planning import plan_conversion  # noqa: PLC0415
        from neurofm_shards.convert.preview import preview  # noqa: PLC0415

        with dispatcher(request.running["executor"], request.running["workers"], listener=listener) as made:
            output = Path(request.output) if request.output else None
            plan = plan_conversion(request.inputs, request.config, made, output=output, listener=listener)
            described = preview(plan)
    print_preview(described, as_json=args.json)
    if args.append or args.resume:
        sys.stderr.write(
            "note: this is what a new data set would be; what the output holds already, and how it was made, was not "
            "looked at\n"
        )
    return 1 if plan.failures else 0


def _executor(named: str | None, options: Sequence[str], by_job: ExecutorChoice) -> ExecutorChoice:
    """Return the executor that flags and job file choose."""
    chosen = by_job if named is None else _name_or_json("--executor", named)
    extra = dict(_option(text) for text in options)
    if not extra:
        return chosen
    if chosen is None:
        raise ConfigError("-x gives options of an executor: name it with --executor")
    return {**({"kind": chosen} if isinstance(chosen, str) else chosen), **extra}


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"-x {text}: write OPTION=VALUE")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value


def _name_or_json(flag: str, text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {text}: not JSON ({error})") from error


def _merged(job: Job, given: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the flags over the job file; window options may stand at its top level."""
    options = dict(job.settings)
    flat = {name: options.pop(name) for name in list(options) if name in WindowOptions.model_fields}
    windows = {**flat, **job.windows, **given.get("windows", {})}
    source = {**job.source, **given.get("source", {})}
    if "stride" in given.get("windows", {}):
        windows.pop("overlap", None)
    elif "overlap" in given.get("windows", {}):
        windows.pop("stride", None)
    if "stride" in given.get("windows", {}) and "overlap" in given["windows"]:
        windows["overlap"] = given["windows"]["overlap"]
    merged = {**options, **given}
    if windows:
        merged["windows"] = windows
    if source:
        merged["source"] = source
    return merged
