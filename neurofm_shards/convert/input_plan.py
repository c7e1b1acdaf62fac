"""The plan of one input: its samples, columns, facts and problems, as its source told them when it was opened."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from neurofm_shards._wording import without_name
from neurofm_shards.convert.input_reader import Expected, InputSpec
from neurofm_shards.errors import NeurofmShardsError
from neurofm_shards.types import ColumnSpec, SourcePlan


@dataclass(frozen=True)
class InputPlan:
    """One input as planning saw it.

    Attributes
    ----------
    spec : InputSpec
        How it is opened.
    plan : SourcePlan or None
        What it will give; None when it failed.
    expected : Expected or None
        What it must still be when it is read.
    session_id : str
        Id of the session, by the template.
    is_recording : bool
        Whether its samples are windows.
    error : str
        Why it failed; empty when it did not.
    again : bool
        Whether part of it is in the data set already, and the rest is retried.
    failure : NeurofmShardsError or None
        The error itself, where it failed in this run.
    empty : bool
        Whether it is sound and holds nothing to convert; such an input stops no others.
    opened_by : str
        The worker that planned it and may have it open still.
    """

    spec: InputSpec
    plan: SourcePlan | None
    expected: Expected | None = None
    session_id: str = ""
    is_recording: bool = False
    error: str = ""
    again: bool = False
    failure: NeurofmShardsError | None = field(default=None, compare=False)
    empty: bool = False
    opened_by: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.spec.input.name

    @property
    def num_samples(self) -> int:
        """How many samples it gives; none where it failed or all of them were dropped."""
        return self.plan.num_samples if self.plan is not None else 0

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """The columns it gives."""
        return self.plan.columns if self.plan is not None else ()

    @property
    def without_samples(self) -> str:
        """Why it gives no samples, in words."""
        drops = self.plan.drops if self.plan is not None else {}
        counts = ", ".join(f"{count} {reason}" for reason, count in drops.items())
        return self.error or f"{self.name} gives no samples (dropped: {counts})"

    @property
    def cause(self) -> str:
        """Why it failed, without its own name at the beginning."""
        given = self.spec.input.given
        return without_name(self.error, self.name, *given, *self.spec.input.paths, *map(os.path.basename, given))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about it, in sentences that do not name it; what has one cause in one."""
        if self.plan is None:
            return (f"left out: {self.cause}",)
        drops = ", ".join(f"{count:,} {reason}" for reason, count in self.plan.drops.items())
        alike: dict[tuple[str, str], list[str]] = {}
        for problem in self.plan.problems:
            if problem.severity != "info":
                alike.setdefault((problem.what, problem.consequence), []).append(problem.where)
        empty = () if self.num_samples else (f"gives no samples (dropped: {drops})",)
        return (*empty, *(f"{', '.join(where)}: {what}; {then}" for (what, then), where in alike.items()))
