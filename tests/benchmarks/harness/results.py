"""What was measured, and what must be reached."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any


@dataclass(frozen=True)
class Series:
    """Repeated measurements of one thing.

    Attributes
    ----------
    case : str
        What was measured.
    who : str
        Contender.
    unit : str
        ``samples/s``, ``s``, ``MB`` ...
    values : list of float
        One per repetition.
    """

    case: str
    who: str
    unit: str
    values: list[float]

    @property
    def median(self) -> float:
        """Return the median."""
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Return the quartiles."""
        if len(self.values) < 3:
            return min(self.values), max(self.values)
        low, _, high = quantiles(self.values, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Bar:
    """Something that must be reached: at least ``bar``, or with ``at_most`` at most."""

    title: str
    bar: float
    value: float
    unit: str = "x"
    at_most: bool = False
    problem: str = ""

    @property
    def reached(self) -> bool:
        """Say whether it was."""
        return not self.problem and (self.value <= self.bar if self.at_most else self.value >= self.bar)


@dataclass
class Results:
    """All of a run."""

    series: list[Series] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    checked: int = 0

    def add(self, case: str, who: str, unit: str, values: list[float]) -> Series:
        """Note measurements."""
        found = Series(case, who, unit, values)
        self.series.append(found)
        low, high = found.spread
        print(f"  {case:58s} {who:24s} {found.median:>12,.4g} {unit:10s} [{low:,.4g}, {high:,.4g}]", flush=True)
        return found

    def hold(self, title: str, value: float, bar: float, *, unit: str = "x", at_most: bool = False) -> None:
        """Compare with what must be reached."""
        self._note(Bar(title, bar, value, unit, at_most))

    def fail(self, title: str, bar: float, problem: str) -> None:
        """Note that something that must be reached could not be measured."""
        self._note(Bar(title, bar, float("nan"), problem=problem))

    def lack(self, what: str, reason: str) -> None:
        """Note what could not be measured, and why."""
        self.absent[what] = reason.strip().splitlines()[-1]
        print(f"  ABSENT {what}: {reason}", flush=True)

    def find(self, case: str, who: str) -> Series | None:
        """Return a series."""
        return next((one for one in self.series if (one.case, one.who) == (case, who)), None)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "bars": [{**asdict(bar), "reached": bar.reached} for bar in self.bars],
            "series": [{**asdict(one), "median": one.median, "quartiles": one.spread} for one in self.series],
            "absent": self.absent,
            "samples_checked": self.checked,
        }

    def _note(self, bar: Bar) -> None:
        self.bars.append(bar)
        said = bar.problem.strip().splitlines()[-1] if bar.problem else f"{bar.value:.3g} {bar.unit}"
        sign = "<=" if bar.at_most else ">="
        print(
            f"  {'ok    ' if bar.reached else 'MISSED'} {bar.title}: {said} ({sign} {bar.bar:g} {bar.unit})", flush=True
        )
