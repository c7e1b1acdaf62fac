"""Table, plot and figures of a run."""

from __future__ import annotations

import json
from pathlib import Path

from harness.bench import MAP, OURS
from harness.plot import plot
from harness.results import Bar, Results, Series

INTRODUCTION = """# Benchmarks

Written by `tox -e bench` (or `python tests/benchmarks/run.py`); do not edit. The figures are in
[results.json](results.json).

Every contender is a script of its own in an environment of its own, with the same data and the same version of torch.
Contenders of one case are measured in turns, in changing order; a first turn is not counted, and a turn of a fast
contender repeats the epoch until it lasts a quarter of a second. Figures are medians, with quartiles in brackets;
ratios are ratios of medians of one run. Before it is timed, every contender's epoch is compared with the source arrays,
sample by sample, and batches that were kept are compared again when the epoch is over. Before a writer is timed, as
many bytes as it will write are written and deleted, so that nobody pays for memory that a virtual machine's host took
back. Single figures differ between machines, and by a fifth between runs on a machine with neighbours; the ratios are
what to read.

![plot](throughput.png)
"""


def write_report(results: Results, machine: dict[str, str], folder: Path) -> None:
    """Write README.md, results.json and throughput.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"machine": machine, **results.to_json()}, indent=1) + "\n")
    plot(results, folder / "throughput.png")
    notes = folder / "notes.md"
    parts = [
        INTRODUCTION,
        _machine(machine, results),
        _bars(results.bars),
        *([notes.read_text()] if notes.exists() else []),
        _absent(results.absent),
        _series(results.series),
        REPRODUCE,
    ]
    (folder / "README.md").write_text("\n".join(part for part in parts if part))


REPRODUCE = """## Reproduce

```sh
tox -e bench                                        # all of it: about 25 minutes, 6 GB of disk, peers from PyPI
tox -e bench -- --quick                             # less data, fewer turns
tox -e bench -- --skip-peers --only paths           # one group of cases
python tests/benchmarks/run.py --envs ~/peers       # keep the peers' environments for the next time
python tests/benchmarks/bench_conversion.py         # conversion alone, of recordings of 10, 100 and 600 MB
python tests/benchmarks/bench_many_files.py FILE    # a small recording under 200 and 10,000 names
```

The command ends with 1 when a bar is missed. Cold caches need the right to write `/proc/sys/vm/drop_caches`.
"""


def _machine(machine: dict[str, str], results: Results) -> str:
    rows = [f"| {name} | {value} |" for name, value in machine.items()]
    rows.append(f"| samples compared with their source | {results.checked:,} |")
    return "\n".join(["## Machine", "", "| | |", "|---|---|", *rows, ""])


def _bars(bars: list[Bar]) -> str:
    rows = []
    for bar in bars:
        measured = bar.problem.strip().splitlines()[-1] if bar.problem else f"{bar.value:.2f} {bar.unit}"
        sign = "at most" if bar.at_most else "at least"
        rows.append(
            f"| {bar.title} | {sign} {bar.bar:g} {bar.unit} | {measured} | {'ok' if bar.reached else '**MISSED**'} |"
        )
    return "\n".join(["## What must be reached", "", "| measure | bar | measured | |", "|---|---|---|---|", *rows, ""])


def _absent(absent: dict[str, str]) -> str:
    if not absent:
        return ""
    return "\n".join(["## Not measured, and why", "", *(f"- {what}: {why}" for what, why in absent.items()), ""])


def _series(series: list[Series]) -> str:
    lines = ["## All figures", ""]
    for case in dict.fromkeys(one.case for one in series):
        mine = [one for one in series if one.case == case]
        limit = next((one.median for one in mine if one.who == MAP), None)
        ours = next((one.median for one in mine if one.who == OURS), None)
        lines += [
            f"### {case}",
            "",
            "| contender | median | quartiles | runs | to ours | to the limit |",
            "|---|---:|---|---:|---:|---:|",
        ]
        lines += [_row(one, ours, limit) for one in sorted(mine, key=lambda one: -one.median)]
        lines.append("")
    return "\n".join(lines)


def _row(one: Series, ours: float | None, limit: float | None) -> str:
    low, high = one.spread
    to_ours = f"{one.median / ours:.2f}" if ours else ""
    to_limit = f"{one.median / limit:.2f}" if limit else ""
    figures = f"{_short(one.median)} {one.unit} | {_short(low)} to {_short(high)} | {len(one.values)}"
    return f"| {one.who} | {figures} | {to_ours} | {to_limit} |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
