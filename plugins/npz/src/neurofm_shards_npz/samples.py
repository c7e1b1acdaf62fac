"""An archive of samples-first arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from neurofm_shards.errors import SourceError
from neurofm_shards.plugins.interfaces import Samples
from neurofm_shards.plugins.toolkit import field_name, file_fingerprint
from neurofm_shards.types import Block, ColumnSpec, SourcePlan
from neurofm_shards_npz.archive import Archive, Member
from neurofm_shards_npz.config import NpzConfig


class NpzSamples(Samples):
    """Row ``i`` of every array is sample ``i``; arrays of text become JSON strings."""

    def __init__(self, archive: Archive, members: list[Member], config: NpzConfig) -> None:
        self._archive = archive
        self._members: dict[str, Member] = {}
        for member in members:
            name = field_name(member.key)
            if name in self._members:
                raise SourceError(
                    f"{archive.path}: arrays {self._members[name].key!r} and {member.key!r} would both be column "
                    f"{name!r}; choose with arrays"
                )
            if not member.numeric and (member.dtype.kind != "U" or len(member.shape) != 1):
                raise SourceError(
                    f"{archive.path}: array {member} has dtype {member.dtype}, which cannot be stored; "
                    "choose with arrays"
                )
            self._members[name] = member
        path = Path(archive.path)
        session = path.stem if config.session_id is None else config.session_id
        self._names = {"session_id": session, "subject_id": config.subject_id}
        self._config = config

    def plan(self) -> SourcePlan:
        """Describe the columns; no data is read but for the fingerprint."""
        length = next(iter(self._members.values())).shape[0]
        columns = tuple(self._spec(name, member) for name, member in self._members.items())
        return SourcePlan(
            length,
            columns,
            file_fingerprint([self._archive.path]),
            metadata=dict(self._names),
            problems=tuple(self._config.without_effect(self._archive.members)),
        )

    def read(self, start: int, stop: int) -> Block:
        """Copy rows out of the arrays."""
        columns = {name: self._rows(member, start, stop) for name, member in self._members.items()}
        file_name = Path(self._archive.path).name
        metadata = [{**self._names, "source_file": file_name, "source_row": i} for i in range(start, stop)]
        return Block(columns, metadata)

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()

    def _spec(self, name: str, member: Member) -> ColumnSpec:
        if not member.numeric:
            return ColumnSpec(name, None, None)
        dtype = member.dtype.newbyteorder("<").str
        return ColumnSpec(name, dtype, member.shape[1:], unit=self._config.units.get(member.key))

    def _rows(self, member: Member, start: int, stop: int) -> Any:
        rows = self._archive.array(member.key)[start:stop]
        return (
            np.array(rows, member.dtype.newbyteorder("<"), order="C")
            if member.numeric
            else [str(text) for text in rows]
        )
