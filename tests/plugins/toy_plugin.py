"""A source for tests, loaded by ``--plugin``: ``.toy`` files are JSON that says which samples they give."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from neurofm_shards.plugins.config import PluginConfig
from neurofm_shards.plugins.entries import SourceEntry, TransformEntry
from neurofm_shards.plugins.hookspecs import hookimpl
from neurofm_shards.plugins.interfaces import Samples, Source, Transform
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.types import Block, ColumnSpec, SourcePlan


class ToyConfig(PluginConfig):
    kind: Literal["toy"] = "toy"
    scale: float = Field(1.0, description="factor on every value")


class ToySource(Source):
    def __init__(self, config):
        self.config = config

    def open(self, paths):
        return ToySamples(paths[0], self.config)


class ToySamples(Samples):
    """``{"n": samples, "units": channels, "seed": s, "broken_at": row, "kill_at": row, "slow_s": seconds a block}``.

    With ``"waits_at": row``, the block with that row is not given before there is a file of the same name with ``.go``.
    """

    def __init__(self, path, config):
        self.path = path
        self.said = json.loads(Path(path).read_text())
        self.scale = config.scale

    def plan(self):
        columns = (
            ColumnSpec("x", "<f4", (5, self.said.get("units", 3))),
            ColumnSpec("unit_ids", "<i4", (self.said.get("units", 3),), table="units"),
        )
        name = self.said.get("session", Path(self.path).stem)
        return SourcePlan(
            self.said["n"],
            columns,
            file_fingerprint([self.path]),
            metadata={"session_id": name, "subject_id": "mouse"},
            drops={"too short": 2},
            tables={"units": [{"id": f"{name}/{i}"} for i in range(self.said.get("units", 3))]},
        )

    def read(self, start, stop):
        if start <= self.said.get("broken_at", -1) < stop:
            raise OSError("bad chunk")
        if start <= self.said.get("kill_at", -1) < stop:
            os.kill(os.getpid(), signal.SIGKILL)
        while start <= self.said.get("waits_at", -1) < stop and not Path(self.path).with_suffix(".go").exists():
            time.sleep(0.01)
        time.sleep(self.said.get("slow_s", 0))
        units = self.said.get("units", 3)
        x = np.stack([values(self.said.get("seed", 0), i, units) for i in range(start, stop)]) * np.float32(self.scale)
        name = self.said.get("session", Path(self.path).stem)
        ids = np.tile(np.arange(units, dtype="<i4"), (stop - start, 1))
        metadata = [{"session_id": name, "subject_id": "mouse", "row": i} for i in range(start, stop)]
        return Block({"x": x, "unit_ids": ids}, metadata)


def values(seed, row, units):
    """Row ``row``'s array: what the tests compare with."""
    return np.random.default_rng([seed, row]).standard_normal((5, units)).astype("<f4")


class DropOddConfig(PluginConfig):
    kind: Literal["drop-odd"] = "drop-odd"


class DropOdd(Transform):
    def __init__(self, config):
        self.config = config

    def __call__(self, sample, metadata):
        return None if metadata["row"] % 2 else sample


class DropAllConfig(PluginConfig):
    kind: Literal["drop-below"] = "drop-below"
    row: int = Field(0, description="rows below this are dropped")


class DropBelow(Transform):
    def __init__(self, config):
        self.config = config

    def __call__(self, sample, metadata):
        return None if metadata["row"] < self.config.row else sample


class LabelConfig(PluginConfig):
    kind: Literal["label"] = "label"
    values: str = Field(description="the labels of rows 0, 1, ..., in Python")


class Label(Transform):
    """Adds a field whose values are what a test says, over and over."""

    def __init__(self, config):
        self.values = eval(config.values, {"np": np})  # noqa: S307  (the test's own)

    def __call__(self, sample, metadata):
        return {**sample, "label": self.values[metadata["row"] % len(self.values)]}


@hookimpl
def neurofm_register_sources():
    return [SourceEntry(name="toy", summary="toys", factory=ToySource, config=ToyConfig, suffixes=(".toy",))]


@hookimpl
def neurofm_register_transforms():
    return [
        TransformEntry(name="drop-odd", summary="drop odd rows", factory=DropOdd, config=DropOddConfig),
        TransformEntry(name="drop-below", summary="drop first rows", factory=DropBelow, config=DropAllConfig),
        TransformEntry(name="label", summary="add a field", factory=Label, config=LabelConfig),
    ]
