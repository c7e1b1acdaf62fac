"""The source called ``recordings``: a data set that stores recordings is itself an input of conversion."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.format.manifest import MANIFEST_NAME, read_manifest
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.stored.catalog import Held, held, shards_by_recording
from neurofm_shards.stored.recording import StoredRecording
from neurofm_shards.streams import Recording


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
