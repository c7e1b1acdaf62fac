"""What planning opened stays open until it is read, within limits, and is never read after it changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.input_reader import InputReader
from neurofm_shards.convert.inputs import Input
from neurofm_shards.convert.opening import spec_of
from neurofm_shards.errors import InputChangedError
from neurofm_shards.plugins.interfaces import Samples, Source
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.types import Block, ColumnSpec, SourcePlan

ROOM = 1 << 30


class CountingSource(Source):
    """Counts what is opened and closed."""

    def __init__(self):
        self.opened, self.closed = [], []

    def open(self, paths):
        self.opened.append(Path(paths[0]).name)
        return CountedSamples(paths[0], self.closed)


class CountedSamples(Samples):
    def __init__(self, path, closed):
        self.path, self.closed = path, closed

    def plan(self):
        columns = (ColumnSpec("x", "<f8", (2,)),)
        return SourcePlan(4, columns, file_fingerprint([self.path]), metadata={"session_id": "a"})

    def read(self, start, stop):
        return Block({"x": np.ones((stop - start, 2))}, [{"session_id": "a"}] * (stop - start))

    def close(self):
        self.closed.append(Path(self.path).name)


@pytest.fixture
def planned(tmp_path):
    """A source, a reader, and the specs of three small inputs."""
    source = CountingSource()
    specs = []
    for name in "abc":
        (tmp_path / f"{name}.toy").write_text(json.dumps({"n": 4, "session": name}))
        path = str(tmp_path / f"{name}.toy")
        specs.append(spec_of(Input((path,), "toy", "{}", source, (path,)), ConversionConfig()))
    return source, InputReader(), specs


def test_what_was_planned_is_not_opened_again(planned):
    source, reader, specs = planned
    expected = [reader.plan(spec, ROOM)[2] for spec in specs]
    for spec, known in zip(specs, expected, strict=True):
        assert len(reader.read(spec, known, 0, 4)) == 4
    assert source.opened == ["a.toy", "b.toy", "c.toy"]
    assert source.closed == ["a.toy", "b.toy"]
    reader.close()
    assert sorted(source.closed) == ["a.toy", "b.toy", "c.toy"]


def test_without_room_an_input_is_closed_when_the_next_is_opened(planned):
    source, reader, specs = planned
    expected = [reader.plan(spec)[2] for spec in specs]
    assert source.closed == ["a.toy", "b.toy"]
    reader.read(specs[2], expected[2], 0, 4)
    reader.read(specs[0], expected[0], 0, 4)
    assert source.opened == ["a.toy", "b.toy", "c.toy", "a.toy"]


def test_the_first_inputs_stay_open_where_not_all_have_room(planned):
    source, reader, specs = planned
    expected = [reader.plan(spec, 2 * ((1 << 20) + 100))[2] for spec in specs]
    source.opened.clear()
    for spec, known in zip(specs, expected, strict=True):
        reader.read(spec, known, 0, 4)
    assert source.opened == ["c.toy"]
    source.closed.clear()
    reader.close()
    assert source.closed == ["c.toy"]


def test_other_windows_of_the_same_file_are_opened_anew(planned):
    source, reader, specs = planned
    expected = reader.plan(specs[0], ROOM)[2]
    other = spec_of(specs[0].input, ConversionConfig(session_template="{stem}"))
    reader.read(other, expected, 0, 4)
    assert source.opened == ["a.toy", "a.toy"]
    assert source.closed == ["a.toy"]


def test_an_open_input_that_changed_is_refused(planned):
    _, reader, specs = planned
    expected = reader.plan(specs[0], ROOM)[2]
    Path(specs[0].input.paths[0]).write_text(json.dumps({"n": 5, "session": "a"}))
    with pytest.raises(InputChangedError, match="changed after it was planned"):
        reader.read(specs[0], expected, 0, 4)
