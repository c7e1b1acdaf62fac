"""Open inputs in workers, to learn what each will give; those that are small stay open until they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from neurofm_shards._process import worker_name
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.dispatch import Call, Dispatcher
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.input_reader import KEPT_BYTES, InputSpec, bytes_of, session_name, worker_reader
from neurofm_shards.convert.inputs import Input
from neurofm_shards.errors import NeurofmShardsError, NothingToConvertError, SourceError, portable
from neurofm_shards.plugins.entries import Entry
from neurofm_shards.plugins.registry import registry

#: Bytes of files, and files, that one call opens, where there are several workers; a larger one has a call of its own.
_BYTES_PER_RUN = 64 << 20
_INPUTS_PER_RUN = 128


def spec_of(item: Input, config: ConversionConfig) -> InputSpec:
    """Return how a configuration has an input opened."""
    pieces = config.piece_bytes if config.layout == "recordings" else None
    return InputSpec(item, config.windows, config.session_template, pieces, config.subject_template, config.subject_ids)


def open_inputs(specs: Sequence[InputSpec], dispatcher: Dispatcher) -> Iterator[InputPlan]:
    """Open each input in a worker; small ones that follow one another in one call, since one shard will hold them."""
    entries = registry().code_entries()
    # where inputs do not come back to the worker that planned them, it is no use to keep many open
    kept = KEPT_BYTES // (dispatcher.workers if dispatcher.knows_workers else dispatcher.workers**2)
    calls = (Call(plan_run, (entries, run, kept), _opening(run)) for run in _runs(specs, dispatcher.workers))
    for plans in dispatcher.in_order(calls):
        yield from plans


def _runs(specs: Sequence[InputSpec], workers: int) -> Iterator[Sequence[InputSpec]]:
    """Divide inputs into runs of small ones, as many for each worker; one by one where there is one worker.

    Runs are long, because a shard whose inputs are open in two workers has some of them opened again.
    """
    turns = math.ceil(len(specs) / (_INPUTS_PER_RUN * workers)) or 1
    longest = 1 if workers == 1 else math.ceil(len(specs) / (turns * workers))
    start = size = 0
    for stop, spec in enumerate(specs):
        own = bytes_of(spec.input.paths, otherwise=_BYTES_PER_RUN)
        if stop > start and (stop - start == longest or size + own > _BYTES_PER_RUN):
            yield specs[start:stop]
            start, size = stop, 0
        size += own
    if start < len(specs):
        yield specs[start:]


def _opening(run: Sequence[InputSpec]) -> str:
    more = f" and {len(run) - 1} more" if len(run) > 1 else ""
    return f"opening {run[0].input.name}{more}"


def plan_run(entries: list[tuple[str, Entry]], specs: Sequence[InputSpec], kept_bytes: int = 0) -> list[InputPlan]:
    """Open inputs and say what each will give, or why it fails (runs in a worker, which keeps so much open)."""
    registry().adopt(entries)
    return [_plan_or_failure(spec, kept_bytes) for spec in specs]


def _plan_or_failure(spec: InputSpec, kept_bytes: int) -> InputPlan:
    try:
        return _plan_input(spec, kept_bytes)
    except NeurofmShardsError as error:
        found = portable(error)
        failure = found if isinstance(found, NeurofmShardsError) else SourceError(str(error))
        return failed_plan(spec, failure)


def failed_plan(spec: InputSpec, failure: NeurofmShardsError) -> InputPlan:
    """Return an input of which nothing can be planned."""
    empty = isinstance(failure, NothingToConvertError)
    return InputPlan(spec, None, error=str(failure), failure=failure, empty=empty)


def _plan_input(spec: InputSpec, kept_bytes: int) -> InputPlan:
    opened, plan, expected = worker_reader().plan(spec, kept_bytes)
    facts = plan.metadata
    own, subject = str(facts.get("session_id", "")), str(facts.get("subject_id", ""))
    session = own if opened.is_recording else session_name(spec, own, subject)
    if plan.num_samples == 0 and not plan.drops:
        raise NothingToConvertError(f"{spec.input.name} gives no samples")
    return InputPlan(spec, plan, expected, session, opened.is_recording, opened_by=worker_name())
