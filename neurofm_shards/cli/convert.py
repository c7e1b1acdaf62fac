"""``neurofm-shards convert``: inputs become a data set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurofm_shards.cli.job import Job, read_job
from neurofm_shards.cli.options import ModelFlags, flags_of
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.errors import ConfigError
from neurofm_shards.recordings.options import WindowOptions

if TYPE_CHECKING:
    from neurofm_shards.convert.session import Mode
    from neurofm_shards.maintenance.validate import Report

_INPUT_FLAGS = ("-i", "--input")
_OWN_FIELDS = ("source", "windows", "transforms")


def _config_flags() -> ModelFlags:
    return ModelFlags(ConversionConfig, "conversion", skip=_OWN_FIELDS)


def _window_flags() -> ModelFlags:
    return ModelFlags(WindowOptions, "windows")


#: Said of words that no flag takes.
BARE_WORDS = " (inputs are given with -i, the output folder with -o)"


def add_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's arguments; those of sources are made from the plugins that the inputs need."""
    parser.add_argument(
        *_INPUT_FLAGS,
        nargs="+",
        action="extend",
        metavar="INPUT",
        help="files, folders or (quoted) patterns",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the data set")
    parser.add_argument("--config", metavar="JOB.toml", help="settings from a file; flags go before it")
    parser.add_argument("-w", "--workers", type=int, metavar="N", help="how many tasks run at once (default: 1)")
    parser.add_argument("--executor", metavar="NAME", help="where tasks run (default: processes for several workers)")
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
    _config_flags().add_to(parser.add_argument_group("data set"))
    _window_flags().add_to(parser.add_argument_group("windows (of continuous recordings)"))
    names = _source_names(argv)
    parser.set_defaults(source_names=names)
    for name, flags in _source_flags(names).items():
        flags.add_to(parser.add_argument_group(f"source {name}"))
    if not names:
        parser.epilog = "Options of a source are shown and understood when --format or an input names it."


def run(args: argparse.Namespace) -> int:
    """Run the command; 1 when an input failed or validation found something."""
    job = read_job(args.config) if args.config else Job()
    config = ConversionConfig.of({"durable": True, **_merged(job, _given(args))})
    inputs = args.input or job.input
    if not inputs:
        raise ConfigError("name the inputs: -i FILES, FOLDERS or PATTERNS")
    workers = args.workers if args.workers is not None else job.workers
    if workers < 1:
        raise ConfigError(f"--workers must be at least 1, not {workers}")
    executor = args.executor or job.executor
    if args.dry_run:
        return _dry_run(args, inputs, config, workers, executor)
    output = args.output or job.output
    if not output:
        raise ConfigError("name the output folder: -o DIR")
    return _convert(args, inputs, output, config, workers, executor)


def _convert(
    args: argparse.Namespace,
    inputs: list[str],
    output: str,
    config: ConversionConfig,
    workers: int,
    executor: str | None,
) -> int:
    from neurofm_shards.cli.conversion_report import print_summary  # noqa: PLC0415  (rich, numpy)
    from neurofm_shards.cli.progress import progress_listener  # noqa: PLC0415
    from neurofm_shards.convert.session import convert_inputs  # noqa: PLC0415

    try:
        with progress_listener() as observer:
            result = convert_inputs(
                inputs, output, config, workers=workers, executor=executor, mode=_mode(args), observer=observer
            )
    except (KeyboardInterrupt, OSError, MemoryError):
        if any(Path(output).glob(".neurofm/**/journal")):  # that of a replacement lies deeper
            sys.stderr.write(f"finished shards are kept: run the same command with --resume to go on in {output}\n")
        raise
    report = _validated(output, workers) if args.validate else None
    print_summary(result if report is None else {**result, "validation": report.to_json()}, as_json=args.json)
    if report is not None and not args.json:
        from neurofm_shards.cli.validate import print_validation  # noqa: PLC0415  (after --help)

        print_validation(report)
    return 1 if result["failures"] or not (report is None or report.ok) else 0


def _validated(output: str, workers: int) -> Report:
    from neurofm_shards.cli.validate import check_folder  # noqa: PLC0415  (after --help)

    return check_folder(output, workers=workers)


def _dry_run(
    args: argparse.Namespace, inputs: list[str], config: ConversionConfig, workers: int, executor: str | None
) -> int:
    from neurofm_shards.cli.conversion_report import print_preview  # noqa: PLC0415  (rich, numpy)
    from neurofm_shards.cli.progress import progress_listener  # noqa: PLC0415
    from neurofm_shards.convert.dispatch import dispatcher  # noqa: PLC0415
    from neurofm_shards.convert.planning import plan_conversion  # noqa: PLC0415
    from neurofm_shards.convert.preview import preview  # noqa: PLC0415

    with progress_listener() as observer, dispatcher(executor, workers, listener=observer) as made:
        plan = plan_conversion(inputs, config, made, listener=observer)
        described = preview(plan)
    print_preview(described, as_json=args.json)
    return 1 if plan.failures else 0


def _mode(args: argparse.Namespace) -> Mode:
    if args.overwrite:
        return "overwrite"
    if args.resume:
        return "resume"
    return "append" if args.append else "new"


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given as flags, nested as in the model."""
    options = _config_flags().given(args)
    windows = _window_flags().given(args)
    if windows:
        options["windows"] = windows
    for name, flags in _source_flags(args.source_names).items():
        values = flags.given(args)
        if values and "source" in options:
            raise ConfigError(f"options of the sources {options['source']['kind']!r} and {name!r} cannot be mixed")
        if values:
            options["source"] = {"kind": name, **values}
    if args.transform:
        options["transforms"] = [_transform(text) for text in args.transform]
    return options


def _transform(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--transform {text}: not JSON ({error})") from error


def _source_flags(names: Sequence[str]) -> dict[str, ModelFlags]:
    from neurofm_shards.plugins.registry import registry  # noqa: PLC0415  (--help needs it only where inputs are named)

    models = {name: registry().sources.get(name).config_model() for name in names}
    return {name: ModelFlags(model, name, skip=("kind",)) for name, model in models.items() if model is not None}


def _source_names(argv: Sequence[str]) -> list[str]:
    """Find out, before the command line is parsed, which sources it is about."""
    named = flags_of(argv, "--format")
    jobs = flags_of(argv, "--config")
    inputs = flags_of(argv, *_INPUT_FLAGS, many=True)
    if jobs:
        job = read_job(jobs[-1])
        named = named or [str(job.settings.get("format", "auto"))]
        inputs = inputs or job.input
    if not inputs and not named:
        return []
    from neurofm_shards.plugins.registry import registry  # noqa: PLC0415  (see above)

    if named and named[-1] != "auto":
        return [registry().sources.get(named[-1]).entry.name]
    suffixes = [text.lower().rstrip("/") for text in inputs] + _suffixes_inside(inputs)
    return [
        item.entry.name
        for item in registry().sources.entries()
        if any(text.endswith(suffix) for suffix in item.entry.suffixes for text in suffixes)
    ]


def _suffixes_inside(inputs: Sequence[str]) -> list[str]:
    folders = [Path(text) for text in inputs if Path(text).is_dir()]
    return sorted({path.suffix.lower() for folder in folders for path in folder.rglob("*") if path.suffix})


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
