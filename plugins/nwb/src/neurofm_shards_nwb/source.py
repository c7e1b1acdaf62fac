"""The source ``nwb``."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.errors import InputNotFoundError, NothingToConvertError, SourceError
from neurofm_shards.plugins.interfaces import Inspection, Source
from neurofm_shards.streams import Recording
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.opening import Opened, open_any

LOOKED_FOR = (
    "units tables, ElectricalSeries (LFP, FilteredEphys, acquisition), position and other behavior, RoiResponseSeries, "
    "events, and tables of intervals (trials, epochs, ...)"
)


class NwbSource(Source):
    """Opens NWB files as recordings.

    Parameters
    ----------
    config : NwbConfig
        Which reader to use.
    """

    def __init__(self, config: NwbConfig | None = None) -> None:
        self.config = config or NwbConfig(reader="auto")

    def open(self, paths: tuple[str, ...]) -> Recording:
        """Open one file.

        Raises
        ------
        NothingToConvertError
            The file is sound and holds nothing that could become samples.
        SourceError
            The file cannot be read; the message names the file, what is wrong with it and what to do.
        """
        path = _only(paths)
        opened = open_any(path, self.config.reader)
        refusal = self._refusal(path, opened)
        if refusal is not None:
            opened.recording.close()
            raise refusal
        return opened.recording

    def inspect(self, paths: tuple[str, ...]) -> Inspection:
        """Say what is inside, also of files that cannot be converted or not even opened."""
        from neurofm_shards_nwb.inspection import inspect_file, unreadable  # noqa: PLC0415  (numpy work for inspect only)

        path = _only(paths)
        try:
            opened = open_any(path, self.config.reader)
        except InputNotFoundError:
            raise
        except SourceError as error:
            return unreadable(path, error)
        with opened.recording:
            return inspect_file(opened, self._refusal(path, opened))

    def write_example(self, path: str, *, seconds: float = 600.0, seed: int = 0) -> None:
        """Write a made-up session of centre-out reaching; see :func:`neurofm_shards_nwb.demo.write_demo_session`."""
        from neurofm_shards_nwb.demo import write_demo_session  # noqa: PLC0415  (only when a demo is made)

        write_demo_session(path, seconds=seconds, seed=seed)

    def _refusal(self, path: str, opened: Opened) -> SourceError | None:
        if opened.refusal:
            return SourceError(f"{path}: {opened.refusal}")
        if opened.recording.streams:
            return None
        return NothingToConvertError(f"{path}: nothing to convert in {opened.title}: {_what_there_is(opened)}")


def _what_there_is(opened: Opened) -> str:
    content = opened.content
    found = [] if content is None else [f"{series.path} ({series.types[0]})" for series in content.series]
    found += [] if content is None else [f"{table.path} ({table.types[0]})" for table in content.tables]
    return f"looked for {LOOKED_FOR}; found {', '.join(found[:8]) if found else 'metadata only'}"


def _only(paths: Sequence[str]) -> str:
    if len(paths) != 1:
        raise SourceError(f"an NWB input is one file, not {len(paths)}: {', '.join(paths[:3])}")
    return paths[0]
