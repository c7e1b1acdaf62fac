"""An archive of continuous series with a rate or time stamps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._wording import counted
from neurofm_shards.errors import NothingToConvertError, SourceError
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.streams import AnyStream, IrregularStream, Recording, RegularStream
from neurofm_shards.types import Problem
from neurofm_shards_npz.archive import Archive, Member
from neurofm_shards_npz.config import NpzConfig


class NpzRecording(Recording):
    """Each numeric array with a time axis is a stream, named by its key."""

    def __init__(self, archive: Archive, members: list[Member], config: NpzConfig) -> None:
        self._archive = archive
        self._config = config
        path = Path(archive.path)
        self.session_id = path.stem if config.session_id is None else config.session_id
        self.subject_id = config.subject_id
        self.source_file = path.name
        self.fingerprint = file_fingerprint([archive.path])
        self.facts: Mapping[str, Any] = {}
        problems = config.without_effect(archive.members)
        self._rate = self._read_rate()
        self._streams = [self._stream(member) for member in members if self._is_series(member, problems)]
        self.problems: Sequence[Problem] = problems
        if not self._streams:
            listed = ", ".join(map(str, members))
            raise NothingToConvertError(
                f"{archive.path}: no array has a time axis among {listed}: say which with "
                "source={'time_axis': NUMBER}"
            )

    @property
    def streams(self) -> Sequence[AnyStream]:
        """All series of the archive."""
        return self._streams

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()

    def _read_rate(self) -> float | None:
        if not isinstance(self._config.rate, str):
            return self._config.rate
        value = self._archive.array(self._config.rate)
        if value.size != 1 or value.dtype.kind not in "iuf" or not 0 < float(value.reshape(-1)[0]) < np.inf:
            raise SourceError(
                f"{self._archive.path}: array {self._config.rate!r} {value.shape} is not a rate: "
                "it must hold one positive number"
            )
        return float(value.reshape(-1)[0])

    def _is_series(self, member: Member, problems: list[Problem]) -> bool:
        if member.key in (self._config.timestamps, self._config.rate, self._config.channels):
            return False
        axis = self._config.axis(member.key)
        fits = member.dtype.kind in "biuf" and -len(member.shape) <= axis < len(member.shape)
        if not fits:
            what = f"array {member} of dtype {member.dtype} has no time axis {axis}"
            if member.dtype.kind == "c":
                what = f"array {member} holds complex numbers: save their real and imaginary parts, or their magnitude"
            if self._config.arrays is not None:
                raise SourceError(f"{self._archive.path}: {what}; leave it out of arrays, or set time_axis for it")
            problems.append(Problem(member.key, what, "left out", "info"))
        return fits

    def _stream(self, member: Member) -> AnyStream:
        key, axis = member.key, self._config.axis(member.key)
        shape = (member.shape[axis], *(n for i, n in enumerate(member.shape) if i != axis % len(member.shape)))
        fields: dict[str, Any] = {
            "path": key,
            "modality": self._config.modality.get(key, "behavior"),
            "kind_name": "array",
            "shape": shape,
            "dtype": member.dtype.newbyteorder("<").str,
            "read": self._reader(key, axis),
            "unit": self._config.units.get(key, ""),
            "circular": self._config.circular.get(key),
            "channels": self._channels(shape),
            "continuity": "step" if member.dtype.kind in "biu" else "continuous",
        }
        if self._rate is not None:
            return RegularStream(**fields, rate=self._rate, t0=self._config.start_s)
        return IrregularStream(**fields, timestamps=self._clock(member, shape[0]))

    def _reader(self, key: str, axis: int) -> Callable[[int, int], npt.NDArray[Any]]:
        def read(start: int, stop: int) -> npt.NDArray[Any]:
            array = self._archive.array(key)
            return np.ascontiguousarray(np.moveaxis(array, axis, 0)[start:stop], array.dtype.newbyteorder("<"))

        return read

    def _clock(self, member: Member, length: int) -> Callable[[], npt.NDArray[np.float64]]:
        key = self._config.timestamps or ""
        clock = self._archive.members[key]
        if clock.dtype.kind not in "biuf":
            raise SourceError(
                f"{self._archive.path}: time stamps {clock} are of dtype {clock.dtype}, not seconds: save them as "
                "numbers"
            )
        if clock.shape != (length,):
            raise SourceError(
                f"{self._archive.path}: time stamps {clock} do not fit array {member}, which has {length} times along "
                f"axis {self._config.axis(member.key)}; set time_axis, or choose with arrays"
            )
        return lambda: np.asarray(self._archive.array(key), dtype=np.float64)

    def _channels(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        if self._config.channels is None or len(shape) != 2:
            return ()
        names = tuple(str(name) for name in self._archive.array(self._config.channels).reshape(-1))
        if len(names) != shape[1]:
            raise SourceError(
                f"{self._archive.path}: {self._config.channels!r} names {counted(len(names), 'channel')}, "
                f"but the data has {shape[1]}"
            )
        return names
