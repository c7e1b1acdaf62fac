"""Opens ``.npz`` archives as samples or as a recording."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from neurofm_shards.errors import NothingToConvertError, SourceError
from neurofm_shards.plugins.interfaces import Samples, Source
from neurofm_shards.streams import Recording
from neurofm_shards_npz.archive import Archive, Member
from neurofm_shards_npz.config import NpzConfig
from neurofm_shards_npz.pynapple import pynapple_recording, pynapple_type
from neurofm_shards_npz.recording import NpzRecording
from neurofm_shards_npz.samples import NpzSamples

_CLOCK_NAME = re.compile(r"t|ts|times?|time_?stamps?|seconds|sec")


class NpzSource(Source):
    """Opens ``.npz`` archives; each is one input."""

    def __init__(self, config: NpzConfig) -> None:
        self.config = config

    def open(self, paths: tuple[str, ...]) -> Samples | Recording:
        """Open an archive.

        Raises
        ------
        SourceError
            The archive is damaged, or its arrays do not fit the options; the message says which options would help.
        """
        archive = Archive(paths[0])
        try:
            members = _chosen(archive, self.config)
            kind = "" if self.config.is_recording or self.config.layout != "auto" else pynapple_type(archive)
            if kind:
                return pynapple_recording(archive, kind, self.config)
            if self.config.is_recording:
                return NpzRecording(archive, members, self.config)
            _check_samples(archive, members, self.config)
            return NpzSamples(archive, members, self.config)
        except BaseException:
            archive.close()
            raise


def _chosen(archive: Archive, config: NpzConfig) -> list[Member]:
    keys = list(archive.members) if config.arrays is None else list(config.arrays)
    named = [config.timestamps, config.channels, config.rate if isinstance(config.rate, str) else None]
    for key in [*keys, *filter(None, named)]:
        if key not in archive.members:
            raise SourceError(f"{archive.path} has no array {key!r}; it has {sorted(archive.members)}")
    if not keys:
        raise NothingToConvertError(f"{archive.path} holds no arrays")
    return [archive.members[key] for key in keys]


def _check_samples(archive: Archive, members: list[Member], config: NpzConfig) -> None:
    lengths = {member.shape[:1] for member in members}
    listed = ", ".join(map(str, members))
    if len(lengths) > 1 or lengths == {()}:
        raise SourceError(
            f"{archive.path}: arrays must have the same first dimension (the samples), but it has {listed}. "
            f"Where an axis is time, say so to get windows: {_suggestion(members)}; or choose arrays with "
            "source={'arrays': [KEY, ...]}"
        )
    given = [name for name in ("channels", "modality", "circular") if getattr(config, name)]
    if given:
        raise SourceError(
            f"{archive.path}: rows are samples here, of which {' and '.join(given)} say nothing: leave that "
            f"out, or say where time is: {_suggestion(members)}"
        )
    for member in members:
        if config.layout == "auto" and _looks_like_clock(archive, member) and len(members) > 1:
            raise SourceError(
                f"{archive.path}: it has {listed}; {member.key!r} looks like time stamps of a continuous recording. "
                f"To cut windows give source={{'timestamps': {member.key!r}}}; to take every row as a sample give "
                "source={'layout': 'samples'}"
            )


def _suggestion(members: list[Member]) -> str:
    series = max(members, key=lambda member: max(member.shape, default=0))
    axis = int(np.argmax(series.shape)) if series.shape else 0
    scalars = [member.key for member in members if member.numeric and member.shape in {(), (1,)}]
    clocks = [m.key for m in members if m.shape == series.shape[axis : axis + 1] and m is not series and m.numeric]
    if clocks:
        return f"source={{'time_axis': {axis}, 'timestamps': {clocks[0]!r}}}"
    rate = repr(scalars[0]) if scalars else "HZ"
    return f"source={{'time_axis': {axis}, 'rate': {rate}}} (or source={{'timestamps': KEY}})"


def _looks_like_clock(archive: Archive, member: Member) -> bool:
    if len(member.shape) != 1 or member.dtype.kind != "f" or member.shape[0] < 2:
        return False
    if not _CLOCK_NAME.fullmatch(Path(member.key).name.lower()):
        return False
    return bool(np.all(np.diff(archive.array(member.key)[:10_000].astype(np.float64)) >= 0))
