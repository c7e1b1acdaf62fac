"""Stored plans: what the parts of a conversion need to know, as checked lines of JSON in the output folder.

``plan`` has a header and, for each input, a line with what its samples are cut and read by. ``plan-facts`` has, for
each input, what only the manifest says. ``plan-inputs-K-of-N`` is what part K of the planning itself found, until the
parts are joined. Nothing here is pickled: a plan may come from anyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import xxhash
from pydantic import TypeAdapter, ValidationError

from neurofm_shards._wording import listed
from neurofm_shards.blocks import RowBase
from neurofm_shards.convert.commit import software
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.input_reader import Expected
from neurofm_shards.convert.inputs import Input
from neurofm_shards.convert.opening import spec_of
from neurofm_shards.convert.planning import ConversionPlan, combine
from neurofm_shards.errors import ConfigError, FormatError, InputNotFoundError
from neurofm_shards.format.dataset_record import versions_of
from neurofm_shards.format.files import Folder
from neurofm_shards.format.unfinished import PLAN_PREFIX
from neurofm_shards.plugins.registry import registry
from neurofm_shards.types import ColumnSpec, Problem, SourcePlan
from neurofm_shards.values import to_json

PLAN_NAME = PLAN_PREFIX
FACTS_NAME = f"{PLAN_PREFIX}-facts"
INPUTS_PREFIX = f"{PLAN_PREFIX}-inputs-"
_VERSION = 3


@dataclass(frozen=True)
class PlanHeader:
    """What a stored plan is.

    Attributes
    ----------
    version : int
        Of this format.
    config : dict
        All settings, those of running included.
    software : dict of str to str
        Distributions that take part, and their versions.
    parts : int
        How many parts run it; how many planned it, in a file of inputs.
    total_inputs, total_shards, total_samples : int
        How much there is.
    """

    version: int
    config: dict[str, Any]
    software: dict[str, str]
    parts: int
    total_inputs: int
    total_shards: int = 0
    total_samples: int = 0

    def check_software(self, folder: Path) -> None:
        """Refuse to go on with other versions."""
        here = versions_of(self.software)
        wrong = [
            f"{name} is {here.get(name, 'missing')} here and was {version}"
            for name, version in self.software.items()
            if here.get(name) != version
        ]
        if wrong:
            raise ConfigError(
                f"the plan in {folder} was made with other versions: {listed(wrong, 3, '; ')}; install the same "
                "everywhere, or plan again with --overwrite"
            )


@dataclass(frozen=True)
class _InputLine:
    """One input, as parts need it."""

    number: int
    given: tuple[str, ...]
    paths: tuple[str, ...]
    format: str
    options: str
    session_id: str
    is_recording: bool
    error: str
    fingerprint: str
    signature: tuple[tuple[int, int], ...]
    num_samples: int
    columns: tuple[ColumnSpec, ...]
    sample_bytes: tuple[int, ...]
    splits: tuple[tuple[str, int], ...]
    bases: dict[str, int | list[int]]
    others: tuple[str, ...] = ()
    empty: bool = False
    split: str = ""


@dataclass(frozen=True)
class _FactsLine:
    """One input, as the manifest needs it beyond that."""

    metadata: dict[str, Any]
    drops: dict[str, int]
    problems: tuple[dict[str, Any], ...]
    tables: dict[str, list[dict[str, Any]]]


_HEADER: TypeAdapter[PlanHeader] = TypeAdapter(PlanHeader)
_INPUT: TypeAdapter[_InputLine] = TypeAdapter(_InputLine)
_FACTS: TypeAdapter[_FactsLine] = TypeAdapter(_FactsLine)


def store_plan(sidecars: Path, plan: ConversionPlan, parts: int) -> PlanHeader:
    """Write a plan; the header's file, last, makes it one."""
    header = PlanHeader(
        _VERSION,
        plan.config.model_dump(mode="json"),
        software(plan),
        parts,
        len(plan.inputs),
        plan.total_shards,
        plan.total_samples,
    )
    bases = plan.bases or ({},) * len(plan.inputs)
    lines = (_input_line(i, item, base) for i, (item, base) in enumerate(zip(plan.inputs, bases, strict=True)))
    _write(sidecars, FACTS_NAME, map(_facts_line, plan.inputs), plan.config)
    _write(sidecars, PLAN_NAME, [asdict(header), *lines], plan.config)
    return header


def store_inputs(
    sidecars: Path,
    numbered: Sequence[tuple[int, InputPlan]],
    config: ConversionConfig,
    part: tuple[int, int],
    total: int,
) -> None:
    """Write what one part of the planning found, inputs with their numbers."""
    made_of = software(ConversionPlan(config, tuple(item for _, item in numbered), (), ()))
    header = PlanHeader(_VERSION, config.model_dump(mode="json"), made_of, part[1], total)
    lines = (_input_line(i, item, {}) | {"facts": _facts_line(item)} for i, item in numbered)
    _write(sidecars, f"{INPUTS_PREFIX}{part[0]}-of-{part[1]}", [asdict(header), *lines], config)


def read_header(folder: Path, sidecars: Path) -> PlanHeader:
    """Read the header of a stored plan (raises ConfigError)."""
    header: PlanHeader = _parsed(_HEADER, _plan_lines(folder, sidecars)[0], sidecars / PLAN_NAME)
    return header


def read_plan(folder: Path, sidecars: Path, *, facts: bool) -> ConversionPlan:
    """Read a stored plan.

    Parameters
    ----------
    folder, sidecars : Path
        The output and its hidden folder.
    facts : bool
        Whether to read what only the manifest says: side tables, problems and facts of inputs.

    Raises
    ------
    ConfigError
        There is no plan, or other versions made it.
    FormatError
        It is damaged.
    """
    lines = _plan_lines(folder, sidecars)
    header = _parsed(_HEADER, lines[0], sidecars / PLAN_NAME)
    header.check_software(folder)
    config = ConversionConfig.of(header.config)
    described = _read(sidecars, FACTS_NAME) if facts else [None] * header.total_inputs
    if len(lines) - 1 != header.total_inputs or len(described) != header.total_inputs:
        raise FormatError(f"{sidecars / PLAN_NAME} is incomplete; plan again with --overwrite")
    stored = [_parsed(_INPUT, line, sidecars / PLAN_NAME) for line in lines[1:]]
    made = cache(_source)  # inputs that are read alike share one source
    planned = [_input_plan(line, fact, config, sidecars, made) for line, fact in zip(stored, described, strict=True)]
    plan = combine(planned, config)
    return plan if facts else replace(plan, bases=tuple(line.bases for line in stored))


def join_inputs(folder: Path, sidecars: Path) -> tuple[list[InputPlan], ConversionConfig]:
    """Join what all parts of the planning found (raises ConfigError)."""
    names = [name for name in _names(sidecars) if name.startswith(INPUTS_PREFIX)]
    if not names:
        raise ConfigError(f"no part of {folder} is planned yet: give the inputs with -i, or plan parts with --part K/N")
    read = {name: _read(sidecars, name) for name in names}
    headers = {name: _parsed(_HEADER, lines[0], sidecars / name) for name, lines in read.items()}
    first = headers[names[0]]
    for name, header in headers.items():
        if (header.config, header.parts, header.total_inputs) != (first.config, first.parts, first.total_inputs):
            raise ConfigError(
                f"{names[0]} and {name} in {sidecars} were planned with other inputs or options; plan again"
            )
        header.check_software(folder)
    missing = [k for k in range(1, first.parts + 1) if f"{INPUTS_PREFIX}{k}-of-{first.parts}" not in names]
    if missing:
        raise ConfigError(f"{_listed(missing)} of {first.parts} of the planning of {folder} are missing")
    config = ConversionConfig.of(first.config)
    planned: dict[int, InputPlan] = {}
    made = cache(_source)
    for name, lines in read.items():
        for line in lines[1:]:
            fact = line.pop("facts")
            item = _parsed(_INPUT, line, sidecars / name)
            planned[item.number] = _input_plan(item, fact, config, sidecars, made)
    return [planned[i] for i in sorted(planned)], config


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"part{'s' if len(numbers) > 1 else ''} {shown}{' ...' if len(numbers) > 10 else ''}"


def _input_line(number: int, item: InputPlan, bases: Mapping[str, RowBase]) -> dict[str, Any]:
    plan, source = item.plan, item.spec.input
    return {
        "number": number,
        "given": source.given,
        "paths": source.paths,
        "format": source.format,
        "options": source.options,
        "session_id": item.session_id,
        "is_recording": item.is_recording,
        "error": item.error,
        "fingerprint": item.expected.fingerprint if item.expected is not None else "",
        "signature": item.expected.signature if item.expected is not None else (),
        "num_samples": item.num_samples,
        "columns": [asdict(spec) for spec in item.columns],
        "sample_bytes": plan.sample_bytes if plan is not None else (),
        "splits": plan.splits if plan is not None else (),
        "bases": dict(bases) if plan is not None else {},
        "others": item.spec.others,
        "empty": item.empty,
        "split": item.spec.split,
    }


def _facts_line(item: InputPlan) -> dict[str, Any]:
    plan = item.plan
    if plan is None:
        return {"metadata": {}, "drops": {}, "problems": [], "tables": {}}
    return {
        "metadata": to_json(dict(plan.metadata)),
        "drops": dict(plan.drops),
        "problems": [to_json(problem.as_dict()) for problem in plan.problems],
        "tables": {name: [to_json(row) for row in rows] for name, rows in plan.tables.items()},
    }


def _input_plan(
    line: _InputLine,
    fact: dict[str, Any] | None,
    config: ConversionConfig,
    sidecars: Path,
    made: Callable[[str, str], Any],
) -> InputPlan:
    source = Input(line.paths, line.format, line.options, made(line.format, line.options), line.given)
    spec = replace(spec_of(source, config), others=line.others, split=line.split)
    if line.error:
        return InputPlan(spec, None, error=line.error, empty=line.empty)
    plan = SourcePlan(
        line.num_samples, line.columns, line.fingerprint, sample_bytes=line.sample_bytes, splits=line.splits
    )
    if fact is not None:
        told = _parsed(_FACTS, fact, sidecars / FACTS_NAME)
        problems = tuple(Problem(**problem) for problem in told.problems)
        plan = replace(plan, metadata=told.metadata, drops=told.drops, problems=problems, tables=told.tables)
    expected = Expected(line.fingerprint, line.signature)
    return InputPlan(spec, plan, expected, line.session_id, line.is_recording)


def _source(format_name: str, options: str) -> Any:
    return registry().sources.get(format_name).make(orjson.loads(options))


def _plan_lines(folder: Path, sidecars: Path) -> list[Any]:
    if PLAN_NAME not in _names(sidecars):
        raise ConfigError(f"{folder} holds no plan: make one with --plan-only")
    return _read(sidecars, PLAN_NAME)


def _names(sidecars: Path) -> list[str]:
    try:
        with Folder.open(sidecars) as folder:
            return folder.names()
    except InputNotFoundError:
        return []


def _write(sidecars: Path, name: str, lines: Iterable[Any], config: ConversionConfig) -> None:
    texts = [orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines]
    digest = xxhash.xxh3_128()
    for text in texts:
        digest.update(text)
    with Folder.open(sidecars, create=True) as folder:
        folder.write(name, [digest.hexdigest().encode() + b"\n", *texts], durable=config.durable)


def _read(sidecars: Path, name: str) -> list[Any]:
    with Folder.open(sidecars) as folder:
        digest, _, text = folder.read(name).partition(b"\n")
    if xxhash.xxh3_128_hexdigest(text).encode() != digest:
        raise FormatError(f"{sidecars / name} is damaged; plan again with --overwrite")
    return [orjson.loads(line) for line in text.splitlines()]


def _parsed(adapter: TypeAdapter[Any], value: Any, path: Path) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise FormatError(f"{path} is no plan of this version ({error.errors()[0]['msg']}); plan again") from error
