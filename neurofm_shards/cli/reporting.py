"""Findings, as ``validate`` and ``repair`` show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from neurofm_shards.cli.output import result_console

if TYPE_CHECKING:
    from neurofm_shards.maintenance.validate import Report

_COLOURS = {"info": "cyan", "warning": "yellow", "error": "red"}


def print_report(report: Report, verdict: str) -> None:
    """Print each finding, then one line that sums up."""
    console = result_console()
    for finding in report.findings:
        colour = _COLOURS.get(finding.severity, "white")
        where = " ".join(filter(None, (finding.shard, finding.key)))
        console.print(
            f"[{colour}]{finding.severity}[/{colour}] {escape(where or report.folder)}: {escape(finding.what)}"
        )
        console.print(f"  -> {finding.consequence}", markup=False)
    size = f"{report.num_samples:,} samples in {report.num_shards:,} shards, {report.num_bytes:,} bytes"
    console.print(f"{report.folder}: {size}: {verdict}", markup=False)
