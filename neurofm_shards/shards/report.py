"""What a validation or a repair found, for people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Findings of one shard that are listed; more are counted.
MAX_FINDINGS = 50


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    severity : str
        ``"error"`` (samples are lost, wrong or cannot be read), ``"warning"`` (some readers stumble, or time is lost)
        or ``"info"``.
    shard, key : str
        Where; empty where it is about the whole data set or the whole shard.
    what : str
        What was found.
    consequence : str
        What follows from it, or what was done about it.
    """

    severity: str
    shard: str
    key: str
    what: str
    consequence: str


@dataclass(frozen=True)
class Report:
    """All that was found.

    Attributes
    ----------
    folder : str
        The data set.
    findings : tuple of Finding
        In the order of the shards.
    num_shards, num_samples, num_bytes : int
        What was looked at.
    """

    folder: str
    findings: tuple[Finding, ...]
    num_shards: int
    num_samples: int
    num_bytes: int

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "findings": [asdict(finding) for finding in self.findings], "ok": self.ok}


def bounded(findings: Sequence[Finding], shard: str) -> list[Finding]:
    """Return the findings of one shard, or the first of them and how many more there are."""
    if len(findings) <= MAX_FINDINGS:
        return list(findings)
    more = len(findings) - MAX_FINDINGS
    worst = "error" if any(finding.severity == "error" for finding in findings[MAX_FINDINGS:]) else "warning"
    rest = Finding(worst, shard, "", f"{more:,} more findings of this shard", "they are not listed one by one")
    return [*findings[:MAX_FINDINGS], rest]
