"""Side tables of a data set: one JSON list of rows per table, which only ever grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from neurofm_shards.convert.commit import json_values
from neurofm_shards.convert.output import Output
from neurofm_shards.format.files import write_atomically
from neurofm_shards.format.manifest import TableEntry
from neurofm_shards.shards.side_tables import read_rows


def write_tables(
    output: Output,
    entries: Mapping[str, TableEntry],
    added: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    durable: bool,
) -> None:
    """Write the tables that grow.

    Rows that an older manifest knows keep their places, so its readers, who take their first ``rows`` rows, are right
    before and after. Rows beyond them, left by an addition that never finished, are replaced.
    """
    for name, rows in added.items():
        before = entries[name].rows - len(rows)
        path = output.folder / entries[name].file
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = read_rows(output.folder, entries[name], before) if before else []
        text = orjson.dumps([*kept, *(json_values(row) for row in rows)], option=orjson.OPT_APPEND_NEWLINE)
        write_atomically(path, [text], durable=durable)
