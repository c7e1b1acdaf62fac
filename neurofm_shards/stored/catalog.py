"""Which recordings a data set holds, and in which of its samples the pieces of each lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from neurofm_shards._typing import Ints
from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.keys import RECORDING_FIELD
from neurofm_shards.format.manifest import Manifest
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings.description import VERSION


@dataclass(frozen=True)
class Held:
    """One recording of a data set.

    Attributes
    ----------
    session_id : str
        Its session.
    rows : numpy.ndarray of int64, shape (pieces,)
        The samples that hold its pieces, in time order.
    shards : tuple of int
        The shards that they lie in.
    """

    session_id: str
    rows: Ints
    shards: tuple[int, ...]


def check_recordings(collection: ShardCollection) -> None:
    """Refuse a data set that holds samples which are cut already."""
    if RECORDING_FIELD not in collection.columns:
        raise ConfigError(
            f"{collection.catalog.folder} holds samples that are cut already ({', '.join(collection.columns)}), and "
            "windows are cut out of recordings: store those with `neurofm-shards convert --layout recordings`, or "
            "leave windows out"
        )


def held(collection: ShardCollection) -> list[Held]:
    """Return the recordings of a data set, in its order (raises ConfigError, FormatError)."""
    check_recordings(collection)
    table = collection.metadata_table()
    missing = {"session_id", "piece", "pieces"} - set(table.names)
    if missing:
        raise FormatError(
            f"{collection.catalog.folder}: its samples do not say their {min(missing)}, so they cannot be put together "
            "to recordings; run `neurofm-shards validate`"
        )
    sessions = [str(value) for value in table.values("session_id")]
    piece, pieces = table.values("piece"), table.values("pieces")
    rows_of: dict[str, list[int]] = {}
    for row, session in enumerate(sessions):
        rows_of.setdefault(session, []).append(row)
    found = []
    for session, rows in rows_of.items():
        ordered = np.array(sorted(rows, key=lambda row: piece[row]), dtype=np.int64)
        expected = np.arange(int(pieces[ordered[0]]))
        if not np.array_equal(piece[ordered], expected):
            raise FormatError(
                f"{collection.catalog.folder}: recording {session!r} has pieces {piece[ordered].tolist()[:10]} of "
                f"{len(expected)}: some were dropped or are repeated. Drop all of it (`neurofm-shards drop --where "
                f"'session_id == \"{session}\"'`) and add it again"
            )
        shards = np.unique(np.searchsorted(collection.starts, ordered, side="right") - 1)
        found.append(Held(session, ordered, tuple(shards.tolist())))
    return found


def shards_by_recording(manifest: Manifest) -> dict[str, list[str]]:
    """Return the shard names of each session, as the manifest's previews say: a shard holds one recording only."""
    found: dict[str, list[str]] = {}
    for shard in manifest.shards:
        preview: Mapping[str, Any] = shard.samples[0] if shard.samples else {}
        found.setdefault(str(preview.get("session_id", shard.shard_name)), []).append(shard.shard_name)
    return found


def description_of(collection: ShardCollection, recording: Held) -> Mapping[str, Any]:
    """Return the description of a recording (raises FormatError)."""
    row = int(recording.rows[0])
    if not collection.has(row, RECORDING_FIELD):
        raise FormatError(f"sample {collection.describe(row)} lacks the description of its recording")
    try:
        said = orjson.loads(collection.payload(row, RECORDING_FIELD))
    except orjson.JSONDecodeError as error:
        raise FormatError(f"sample {collection.describe(row)}: the description of its recording is damaged") from error
    if not isinstance(said, dict) or said.get("version") != VERSION:
        version = said.get("version") if isinstance(said, dict) else None
        raise FormatError(
            f"sample {collection.describe(row)}: its recording is described in version {version!r:.40}, and this "
            f"release knows {VERSION}: a newer version of neurofm-shards may read it"
        )
    return said


def borders(said: Mapping[str, Any], field: str, pieces: Sequence[int] | Ints) -> Ints:
    """Return the first row of each piece of an array, and the number of rows, shape (pieces + 1,).

    Raises
    ------
    FormatError
        They are not ascending numbers, one more than there are pieces.
    """
    try:
        rows = np.asarray(said["rows"][field], dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FormatError(
            f"a recording's description does not say which rows of {field!r} are in which piece"
        ) from error
    if rows.shape != (len(pieces) + 1,) or rows[0] != 0 or (np.diff(rows) < 0).any():
        raise FormatError(f"a recording's description is damaged: {field!r} has rows {rows.tolist()[:10]}")
    return rows
