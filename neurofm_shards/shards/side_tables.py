"""Side tables of a data set (units, channels, features): one JSON list of rows each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.manifest import Manifest, TableEntry


def side_table(folder: Path, manifest: Manifest | None, name: str) -> list[dict[str, Any]]:
    """Return the rows of a side table.

    Parameters
    ----------
    folder : Path
        The data set's.
    manifest : Manifest or None
        Says which tables there are; None for shards from elsewhere, which have none.
    name : str
        The table.

    Raises
    ------
    ConfigError
        There is no such table; the message lists those that are there.
    FormatError
        The table is damaged.
    """
    entries: Mapping[str, TableEntry] = {} if manifest is None else manifest.tables
    if name not in entries:
        raise ConfigError(f"{folder} has no table {name!r}; there are: {', '.join(entries) or 'none'}")
    return read_rows(folder, entries[name], entries[name].rows)


def read_rows(folder: Path, entry: TableEntry, rows: int) -> list[dict[str, Any]]:
    """Read the first rows of a table; those beyond belong to an addition that never finished.

    Raises
    ------
    FormatError
        The table is damaged or has fewer rows.
    """
    try:
        table = orjson.loads((folder / entry.file).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise FormatError(
            f"table {entry.file} of {folder} cannot be read: {error}. Copy the hidden folder along with the shards"
        ) from error
    if not isinstance(table, list) or len(table) < rows or not all(isinstance(row, dict) for row in table[:rows]):
        raise FormatError(f"table {entry.file} of {folder} must be a list of at least {rows} rows")
    return table[:rows]
