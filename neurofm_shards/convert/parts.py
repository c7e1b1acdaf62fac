"""Parts: a conversion that any number of machines run without a coordinator, by way of files in the output folder.

``plan_parts`` opens the inputs and stores the plan; ``plan_part`` and ``join_parts`` do that in parts, too.
``run_part`` writes one part's share of the shards, on any machine, in any order, again after a kill. ``commit_parts``
sees that all shards are there and writes the manifest. The result is that of one worker.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neurofm_shards._process import host_name
from neurofm_shards._wording import counted, listed
from neurofm_shards.convert.commit import commit
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.dispatch import DEFAULT_RETRIES, ExecutorChoice, dispatcher
from neurofm_shards.convert.identity import config_differences, identity
from neurofm_shards.convert.planning import ConversionPlan, all_inputs, check_config, combine, plan_inputs
from neurofm_shards.convert.session import ConversionSession, Named, new_failures, overlaid, started, tell_plugins
from neurofm_shards.convert.shard_run import ShardRun, Staging
from neurofm_shards.convert.stored_plan import PlanHeader, join_inputs, read_header, read_plan, store_inputs, store_plan
from neurofm_shards.errors import ConfigError, InputChangedError, OutputLockedError
from neurofm_shards.events import ConversionFinished, Listener, broadcast, ignore
from neurofm_shards.format.files import Folder
from neurofm_shards.format.manifest import summary
from neurofm_shards.format.unfinished import PART_JOURNAL_PREFIX, STAGING_PREFIX
from neurofm_shards.writing.journal import Journal, JournalContent, JournalHeader, read_one_journal
from neurofm_shards.writing.lock import OutputLock, try_lock
from neurofm_shards.writing.output_folder import OutputFolder

_PATIENCE_S = 2.0
#: Environment variables that number the jobs of an array or the processes of a launcher: variable, number of the first,
#: who sets it. Arrays come before launchers, because a job of an array may start its program with a launcher.
NUMBERS: tuple[tuple[str, int, str], ...] = (
    ("SLURM_ARRAY_TASK_ID", 1, "an array of sbatch"),
    ("PBS_ARRAY_INDEX", 1, "an array of PBS Pro"),
    ("PBS_ARRAYID", 1, "an array of Torque"),
    ("LSB_JOBINDEX", 1, "an array of LSF"),
    ("SGE_TASK_ID", 1, "an array of Grid Engine"),
    ("JOB_COMPLETION_INDEX", 0, "an indexed job of Kubernetes"),
    ("OMPI_COMM_WORLD_RANK", 0, "mpirun of Open MPI"),
    ("PMI_RANK", 0, "mpiexec of MPICH"),
    ("PMIX_RANK", 0, "a launcher with PMIx"),
    ("SLURM_PROCID", 0, "srun"),
)


@dataclass(frozen=True)
class Part:
    """Part ``k`` of ``n``, counted from 1."""

    k: int
    n: int

    def __str__(self) -> str:
        return f"{self.k}/{self.n}"

    @property
    def journal_name(self) -> str:
        """Name of its journal."""
        return f"{PART_JOURNAL_PREFIX}{self.k}-of-{self.n}"

    @classmethod
    def parse(cls, text: str, parts: int | None, environment: Mapping[str, str]) -> Part:
        """Return the part that ``K/N``, ``K`` or ``auto`` names.

        Parameters
        ----------
        text : str
            What was given.
        parts : int or None
            How many parts the plan has; None where there is none yet.
        environment : mapping of str to str
            Where ``auto`` looks for K.

        Raises
        ------
        ConfigError
            It names no part.
        """
        if text == "auto":
            k, n = _number(environment), parts
        else:
            first, slash, second = text.partition("/")
            if not (first.isdecimal() and (second.isdecimal() or not slash)):
                raise ConfigError(f"--part {text}: write K/N, K from 1 to N, or auto")
            k, n = int(first), int(second) if slash else parts
        if n is None:
            raise ConfigError(f"--part {text}: say of how many, as K/N or with --parts N")
        if not 1 <= k <= n:
            raise ConfigError(f"--part {text} is part {k} of {n}; parts are numbered from 1 to {n}")
        return cls(k, n)

    def share(self, total: int) -> range:
        """Return its share of so many shards: consecutive ones, which read the same inputs."""
        return range(total * (self.k - 1) // self.n, total * self.k // self.n)

    def of(self, plan: ConversionPlan) -> ConversionPlan:
        """Return the plan of its share of the shards."""
        share = self.share(plan.total_shards)
        return replace(plan, shards=plan.shards[share.start : share.stop], first_shard=share.start)


def _number(environment: Mapping[str, str]) -> int:
    for name, first, _ in NUMBERS:
        value = environment.get(name, "")
        if value.isdecimal() and not _is_single(name, value, environment):
            return int(value) - first + 1
    known = ", ".join(dict.fromkeys(who for _, _, who in NUMBERS))
    raise ConfigError(f"--part auto: nothing here says which part this is; it is read in {known}. Say --part K/N")


def _is_single(name: str, value: str, environment: Mapping[str, str]) -> bool:
    """Return whether a number says nothing: LSF numbers single jobs 0, and a batch script is process 0 of Slurm."""
    return (name == "LSB_JOBINDEX" and value == "0") or (
        name == "SLURM_PROCID" and "SLURM_STEP_NUM_TASKS" not in environment
    )


def plan_parts(
    named: Named,
    output_dir: str | os.PathLike[str],
    config: ConversionConfig,
    *,
    parts: int = 1,
    overwrite: bool = False,
    workers: int = 1,
    executor: ExecutorChoice = None,
    observer: Listener = ignore,
) -> PlanHeader:
    """Plan a conversion, and store the plan for its parts.

    With ``overwrite``, what an unfinished conversion has written is deleted; a data set is not.

    Raises
    ------
    OutputExistsError
        The output holds something.
    """
    with ConversionSession(output_dir, config, workers=workers, executor=executor, observer=observer) as session:
        if not (overwrite and session.output.manifest() is None):
            session.output.check_free()
        plan = combine(session.plan(named, config), config)
        if overwrite:
            session.output.delete()
        return _store(session.output, plan, parts)


def plan_part(
    named: Named,
    output_dir: str | os.PathLike[str],
    config: ConversionConfig,
    part: Part,
    *,
    workers: int = 1,
    executor: ExecutorChoice = None,
    observer: Listener = ignore,
) -> int:
    """Open one part's share of the inputs; return their number. ``join_parts`` makes the plan of all parts."""
    check_config(config)
    output = OutputFolder(Path(output_dir))
    with OutputLock(output.folder, shared=True), dispatcher(executor, workers, listener=observer) as made:
        output.check_free()
        inputs = all_inputs(named, config, output.folder)
        mine = range(part.k - 1, len(inputs), part.n)
        planned = plan_inputs([inputs[i] for i in mine], config, made, listener=observer)
        store_inputs(output.sidecars, list(zip(mine, planned, strict=True)), config, (part.k, part.n), len(inputs))
    return len(mine)


def join_parts(output_dir: str | os.PathLike[str], *, parts: int = 1) -> PlanHeader:
    """Make the plan of what all parts of the planning found.

    Raises
    ------
    ConfigError
        Parts are missing, or do not fit together.
    """
    output = OutputFolder(Path(output_dir))
    with OutputLock(output.folder):
        output.check_free()
        planned, config = join_inputs(output.folder, output.sidecars)
        return _store(output, combine(planned, config), parts)


def _store(output: OutputFolder, plan: ConversionPlan, parts: int) -> PlanHeader:
    if parts < 1:
        raise ConfigError(f"--parts must be at least 1, not {parts}")
    header = store_plan(output.sidecars, plan, parts)
    Journal(
        output.sidecars, JournalHeader("convert", identity(plan), plan.total_shards, plan.config.durable), None
    ).close()
    return header


def check_options(output_dir: str | os.PathLike[str], given: Mapping[str, Any]) -> PlanHeader:
    """Return the header of a stored plan; options that are given again must be the plan's.

    Raises
    ------
    ConfigError
        There is no plan, or it was made with other options.
    """
    output = OutputFolder(Path(output_dir))
    header = read_header(output.folder, output.sidecars)
    planned = ConversionConfig.of(header.config).content()
    asked = ConversionConfig.of({**header.config, **overlaid(header.config, given)}).content()
    differences = config_differences(asked, planned)
    if differences:
        raise ConfigError(
            f"the plan in {output.folder} was made with other options: {listed(differences, 3, '; ')}; leave them out, "
            "or plan again with --overwrite"
        )
    return header


def run_part(
    output_dir: str | os.PathLike[str],
    part: Part,
    *,
    workers: int = 1,
    executor: ExecutorChoice = None,
    retries: int = DEFAULT_RETRIES,
    staging: Staging = "shared",
    observer: Listener = ignore,
) -> int:
    """Write one part's share of the shards; return how many were missing.

    Raises
    ------
    ConfigError
        There is no plan, or other versions made it.
    InputChangedError
        An input is not what was planned.
    OutputLockedError
        The part is being written, or the whole output is.
    """
    output = OutputFolder(Path(output_dir))
    read_header(output.folder, output.sidecars)  # before a lock makes the folder
    with ExitStack() as stack:
        stack.enter_context(OutputLock(output.folder, shared=True))
        stack.enter_context(_part_lock(output, part))
        plan = part.of(read_plan(output.folder, output.sidecars, facts=False))
        tell = broadcast(tell_plugins, observer)
        made = stack.enter_context(dispatcher(executor, workers, retries=retries, listener=tell))
        made.check(output.sidecars, shared=staging == "shared")
        journal_header = JournalHeader("part", {"parts": part.n}, plan.total_shards, plan.config.durable)
        found = read_one_journal(output.sidecars, part.journal_name)
        names = {"journal_name": part.journal_name, "staging_name": staging_name(part)}
        with (
            ShardRun(output, plan.config, journal_header, found, made, tell, staging=staging, **names) as run,
            _noted(run),
        ):
            missing = plan.total_shards - len(run.lines)
            tell(started(plan, run.lines, splits=False))
            with _planned_again():
                run.run(plan)
            return missing


@contextmanager
def _planned_again() -> Iterator[None]:
    """Say of an input that has changed that running the part again is not enough."""
    try:
        yield
    except InputChangedError as error:
        raise InputChangedError(
            f"{error}: the plan has it as it was, so plan again with --plan-only --overwrite, then run all parts again"
        ) from error


@contextmanager
def _noted(run: ShardRun) -> Iterator[None]:
    """Write down who runs a part, and how that ends."""
    run.note("started", **whereabouts())
    try:
        yield
    except BaseException as error:
        run.note("failed", error=f"{type(error).__name__}: {error}", **whereabouts())
        raise
    run.note("finished", **whereabouts())


def whereabouts() -> dict[str, Any]:
    """Return where and when this is: host, process, job and time."""
    job = next((os.environ[name] for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID") if name in os.environ), "")
    return {"host": host_name(), "pid": os.getpid(), "job": job, "at": time.time()}


@contextmanager
def _part_lock(output: OutputFolder, part: Part) -> Iterator[None]:
    """Keep a second process away from a part, and remove what one that was killed was writing."""
    with Folder.open(output.sidecars) as folder:
        descriptor = _opened_lock(folder, f"{part.journal_name}.lock")
        try:
            _lock(descriptor, part)
            folder.remove_tree(staging_name(part))
            yield
        finally:
            os.close(descriptor)


def _opened_lock(folder: Folder, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        return folder.create_file(name)
    return folder.open_own_file(name, os.O_RDWR)


def _lock(descriptor: int, part: Part) -> None:
    end = time.monotonic() + _PATIENCE_S
    while try_lock(descriptor) is False:  # where the file system has no locks, nobody is kept away
        if time.monotonic() > end:
            raise OutputLockedError(f"part {part} is being written by another process; wait for it")
        time.sleep(0.1)  # ``status`` takes the lock for a moment, to see whether it is free


def staging_name(part: Part) -> str:
    """Return the name of the folder in which a part writes shards before they are moved into place."""
    return f"{STAGING_PREFIX}{part.k}-of-{part.n}"


def commit_parts(output_dir: str | os.PathLike[str], *, observer: Listener = ignore) -> dict[str, Any]:
    """See that all shards are there, and write the manifest; return the data set's summary.

    Raises
    ------
    ConfigError
        Parts are missing; the message says which.
    """
    output = OutputFolder(Path(output_dir))
    header = read_header(output.folder, output.sidecars)
    with OutputLock(output.folder):
        output.clean()
        journal = output.journal()
        if journal is None:
            raise ConfigError(f"{output.folder} holds no plan: make one with --plan-only")
        lines = {k: line for k, line in journal.shards.items() if output.is_sound(line, journal.header)}
        _check_complete(output, header, lines)
        plan = read_plan(output.folder, output.sidecars, facts=True)
        manifest = commit(output, plan, lines, None)
    result = {**summary(output.folder, manifest), "new_failures": new_failures(manifest)}
    broadcast(tell_plugins, observer)(ConversionFinished(result))
    return result


def _check_complete(output: OutputFolder, header: PlanHeader, lines: Mapping[int, Any]) -> None:
    missing = [k for k in range(header.total_shards) if k not in lines]
    if not missing:
        return
    parts = [
        k
        for k in range(1, header.parts + 1)
        if any(i not in lines for i in Part(k, header.parts).share(header.total_shards))
    ]
    raise ConfigError(
        f"{output.folder} lacks {len(missing):,} of {counted(header.total_shards, 'shard')}, of part"
        f"{'s' if len(parts) > 1 else ''} {_ranges(parts)} of {header.parts}; run {'them' if len(parts) > 1 else 'it'} "
        f"again with --part {'K' if len(parts) > 1 else parts[0]}/{header.parts}, then --commit"
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers as ``sbatch --array`` takes them: ``1-3,7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def part_contents(output: OutputFolder) -> dict[Part, tuple[JournalContent, bool]]:
    """Return the journal of every part that was begun, and whether a process is writing it now."""
    found = {}
    with Folder.open(output.sidecars) as folder:
        for name in folder.names():
            if not name.startswith(PART_JOURNAL_PREFIX) or "." in name:
                continue
            k, _, n = name.removeprefix(PART_JOURNAL_PREFIX).partition("-of-")
            content = read_one_journal(output.sidecars, name)
            if content is not None:
                found[Part(int(k), int(n))] = (content, _is_locked(folder, f"{name}.lock"))
    return found


def _is_locked(folder: Folder, name: str) -> bool:
    if not folder.has(name):
        return False
    descriptor = folder.open_file(name)
    try:
        return try_lock(descriptor, shared=True) is False  # where the file system has no locks, nobody can say
    finally:
        os.close(descriptor)
