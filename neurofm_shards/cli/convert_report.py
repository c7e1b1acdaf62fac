"""What ``convert`` shows of its result: a summary, or what a dry run would make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neurofm_shards._console import print_table
from neurofm_shards._wording import counted, size_text, without_name
from neurofm_shards.blocks import dtype_name, shape_text
from neurofm_shards.cli.console import print_json, result_console
from neurofm_shards.cli.options import in_flags
from neurofm_shards.recordings.group_splits import sample_shares


def print_summary(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a conversion made."""
    if as_json:
        print_json(dict(result))
        return
    console = result_console()
    console.print(
        f"{counted(result['total_samples'], 'sample')} in {counted(result['total_shards'], 'shard')} "
        f"({size_text(result['total_bytes'])}), columns {', '.join(result['modalities'])}, in {result['output_dir']}",
        markup=False,
    )
    for line in (*split_line(result["splits"]), *validity_notes(result["valid_shares"])):
        console.print(line, markup=False)
    for failure in result["failures"]:
        what = "left out" if failure.get("empty") else "failed"
        cause = in_flags(without_name(failure["error"], *failure["files"]))
        console.print(f"{what}: {failure['files'][0]}: {cause}", markup=False)


def print_preview(described: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a conversion would make."""
    if as_json:
        print_json(dict(described))
        return
    console = result_console()
    print_table(console, ("input", "format", "session", "samples"), map(_input_row, described["inputs"]))
    console.print()
    print_table(console, ("column", "type", "shape", "unit"), map(_column_row, described["columns"]))
    console.print()
    warnings = [f"warning: {text}" for text in described["split_warnings"]]
    for line in (*split_line(described["splits"]), *warnings, *validity_notes(described["valid_shares"])):
        console.print(line, markup=False)
    console.print(
        f"{counted(described['total_samples'], 'sample')} in {counted(described['total_shards'], 'shard')}, "
        f"about {size_text(described['estimated_bytes'])} before compression",
        markup=False,
    )


def split_line(splits: Mapping[str, int]) -> list[str]:
    """Return samples and share of each split, in one line; nothing where there are no splits."""
    shares = sample_shares(splits)
    told = ", ".join(f"{name} {count:,} ({shares[name]:.1%})" for name, count in splits.items())
    return [f"splits: {told}"] if told else []


def validity_notes(shares: Mapping[str, float]) -> list[str]:
    """Return in which share of windows each modality is valid, where that is not all of them."""
    return [
        f"{'warning: ' if share < 0.01 else ''}{name} is valid in {share * 100:.{0 if share >= 0.01 else 2}f} % of "
        "windows; --min-valid-fraction 1 keeps those"
        for name, share in shares.items()
        if share < 1
    ]


def _input_row(item: Mapping[str, Any]) -> tuple[Sequence[str], str]:
    """Return an input's row, and as a note what is left out of it or why it failed."""
    more = f" and {len(item['files']) - 1} more" if len(item["files"]) > 1 else ""
    name = item["files"][0] + more
    if "error" in item:
        return (name, item["format"], "", "failed"), item["error"]
    drops = ", ".join(f"{count:,} {reason}" for reason, count in item["drops"].items())
    return (name, item["format"], item["session_id"], f"{item['num_samples']:,}"), drops and f"dropped: {drops}"


def _column_row(column: Mapping[str, Any]) -> tuple[Sequence[str], str]:
    shape = "varies" if column["shape"] is None else shape_text(column["shape"])
    cells = (column["name"], dtype_name(column["dtype"]), shape if column["dtype"] else "", column["unit"] or "")
    return cells, ""
