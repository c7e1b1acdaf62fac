"""Which recordings a data set holds, and each as a recording again, whose streams are read when they are used.

The source called ``recordings`` makes such recordings inputs of conversion.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from neurofm_shards._typing import Ints
from neurofm_shards.errors import ConfigError, FormatError, SourceError
from neurofm_shards.format.keys import RECORDING_FIELD
from neurofm_shards.format.manifest import MANIFEST_NAME, Manifest, read_manifest
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.recordings.description import VERSION, problems_from_json, stream_of, timelines_from_json
from neurofm_shards.streams import AnyStream, Recording
from neurofm_shards.values import sorted_unique


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
        shards = sorted_unique(np.searchsorted(collection.starts, ordered, side="right") - 1)
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


class PieceArrays:
    """The arrays of one stored recording, put together from its pieces.

    Parameters
    ----------
    collection : ShardCollection
        The data set.
    rows : numpy.ndarray of int64, shape (pieces,)
        The samples that hold the pieces.
    said : mapping
        The recording's description.
    """

    def __init__(self, collection: ShardCollection, rows: Ints, said: Mapping[str, Any]) -> None:
        self._collection = collection
        self._rows = rows
        self._said = said
        self._borders: dict[str, Ints] = {}

    def whole(self, field: str) -> npt.NDArray[Any]:
        """Return a whole array: memory of the data set where it is one piece, else new memory."""
        return self.rows(field, 0, int(self.borders(field)[-1]))

    def rows(self, field: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return some rows of an array, whatever pieces they lie in."""
        edges = self.borders(field)
        start, stop = min(max(start, 0), int(edges[-1])), min(max(stop, 0), int(edges[-1]))
        last_piece = len(self._rows) - 1
        first = min(int(np.searchsorted(edges, start, side="right")) - 1, last_piece)
        last = min(max(first, int(np.searchsorted(edges, stop, side="left")) - 1), last_piece)
        parts = [self._piece(field, i, start, stop) for i in range(first, last + 1)]
        if len({(part.dtype, part.shape[1:]) for part in parts}) != 1:
            raise FormatError(f"the pieces of {field!r} differ in type or shape; run `neurofm-shards validate`")
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def borders(self, field: str) -> Ints:
        """Return the first row of each piece of an array, and the number of its rows."""
        found = self._borders.get(field)
        if found is None:
            found = self._borders[field] = borders(self._said, field, self._rows)
        return found

    def _piece(self, field: str, i: int, start: int, stop: int) -> npt.NDArray[Any]:
        begin, end = self.borders(field)[i : i + 2].tolist()
        low = max(start - begin, 0)
        high = max(min(stop, end) - begin, low)
        part = self._collection.array(int(self._rows[i]), field, low, high)
        if len(part) != high - low:
            raise FormatError(
                f"sample {self._collection.describe(int(self._rows[i]))}: {field!r} is shorter than the {end - begin} "
                "rows that its recording promises; run `neurofm-shards validate`"
            )
        return part


class StoredRecording(Recording):
    """A recording of a data set that stores recordings.

    Parameters
    ----------
    collection : ShardCollection
        The data set; streams are views of its memory where they can be, so it must stay open while they are used.
    recording : Held
        Which of its recordings.
    owned : bool
        Whether to close the data set with the recording.
    """

    def __init__(self, collection: ShardCollection, recording: Held, *, owned: bool = False) -> None:
        self._collection = collection
        self._owned = owned
        self.description = description_of(collection, recording)
        self.arrays = PieceArrays(collection, recording.rows, self.description)
        said = self.description
        try:
            self.session_id, self.subject_id = str(said["session_id"]), str(said["subject_id"])
            self.subject_is_known = not said.get("subject_is_unknown", False)
            self.source_file, self.fingerprint = str(said["source_file"]), str(said["fingerprint"])
            self.facts, self.problems = dict(said["facts"]), problems_from_json(said["problems"])
            self.timelines = timelines_from_json(said["timelines"])
            self._streams = tuple(stream_of(stream, self.arrays) for stream in said["streams"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{collection.catalog.folder}: the description of recording {recording.session_id!r} is damaged "
                f"({type(error).__name__}: {error}); run `neurofm-shards validate`"
            ) from error

    @property
    def streams(self) -> Sequence[AnyStream]:
        """The streams, with the paths they had in the input."""
        return self._streams

    def close(self) -> None:
        """Close the data set, where it was opened for this recording alone."""
        if self._owned:
            self._collection.close()


class RecordingsSource(Source):
    """Opens the recordings of data sets, one input each: the shards that hold its pieces."""

    def group(self, paths: Sequence[str]) -> Sequence[tuple[str, ...]]:
        """Return the shards of each recording, in the data set's order."""
        groups: list[tuple[str, ...]] = []
        for path in paths:
            folder = Path(path)
            folder = folder.parent if folder.name == MANIFEST_NAME else folder
            manifest = read_manifest(folder)
            if manifest is None:
                raise SourceError(f"{folder} holds no finished data set: it has no {MANIFEST_NAME}")
            if not manifest.stores_recordings:
                raise ConfigError(
                    f"{folder} holds samples that are cut already ({', '.join(manifest.modalities)}), which cannot be "
                    "cut again: convert the files they came from, and store those with --layout recordings to cut them "
                    "again and again"
                )
            found = shards_by_recording(manifest).values()
            groups += [tuple(os.fspath(folder / name) for name in names) for names in found]
        return groups

    def open(self, paths: tuple[str, ...]) -> Recording:
        """Open one recording.

        Raises
        ------
        SourceError
            The shards do not hold one recording, whole.
        """
        collection = ShardCollection.open(Path(paths[0]).parent, tuple(Path(path).name for path in paths))
        try:
            return StoredRecording(collection, _only(held(collection), paths[0]), owned=True)
        except BaseException:
            collection.close()
            raise


def _only(found: Sequence[Held], path: str) -> Held:
    if len(found) == 1:
        return found[0]
    sessions = ", ".join(recording.session_id for recording in found)
    raise SourceError(f"{path}: its shards hold {len(found)} recordings ({sessions}), not one")
