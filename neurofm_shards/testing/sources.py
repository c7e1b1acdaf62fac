"""What every source must do."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import orjson
import pytest

from neurofm_shards.blocks import concat_blocks
from neurofm_shards.errors import NeurofmShardsError
from neurofm_shards.plugins.interfaces import Samples, Source
from neurofm_shards.plugins.registry import registry
from neurofm_shards.recordings import EventStream, IntervalStream, IrregularStream, Recording, RegularStream
from neurofm_shards.recordings.inspection import inspect_input
from neurofm_shards.streams import MODALITIES
from neurofm_shards.testing.comparing import same_blocks
from neurofm_shards.types import Block, ColumnSpec, Ragged


class SourceConformance:
    """Checks a registered source. Set ``name`` and implement ``make_input``.

    Attributes
    ----------
    name : str
        The source's registered name.
    options : mapping
        Its options.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    def make_input(self, folder: Path) -> list[Path]:
        """Write one input (the same at every call) into a folder; return the paths a user would name."""
        raise AssertionError(f"implement make_input(folder) in your test class (it would write into {folder})")

    @property
    def source(self) -> Source:
        """The source under test."""
        return cast("Source", registry().sources.make({"kind": self.name, **self.options}))

    @pytest.fixture
    def paths(self, tmp_path: Path) -> tuple[str, ...]:
        """One input, grouped by the source itself."""
        folder = tmp_path / "input"
        folder.mkdir()
        groups = self.source.group([str(path) for path in self.make_input(folder)])
        assert len(groups) == 1, "make_input must write ONE input, and group() must see it as one"
        return tuple(groups[0])

    def test_its_files_are_recognised(self, paths: tuple[str, ...]) -> None:
        """The entry's suffixes, magic bytes or folder flag match the input."""
        entry = registry().sources.get(self.name).entry
        for path in map(Path, paths):
            by_suffix = path.name.lower().endswith(entry.suffixes) if entry.suffixes else False
            head = path.read_bytes()[:4096] if path.is_file() else b""
            by_magic = any(head[at : at + len(magic)] == magic for at, magic in entry.magic)
            assert by_suffix or by_magic or (path.is_dir() and entry.folders), f"nothing in the entry matches {path}"

    def test_it_can_be_pickled(self, paths: tuple[str, ...]) -> None:
        """Worker processes get a copy."""
        copy = pickle.loads(pickle.dumps(self.source))  # noqa: S301  (our own bytes)
        with copy.open(paths):
            pass

    def test_the_fingerprint_is_that_of_the_content(self, paths: tuple[str, ...], tmp_path: Path) -> None:
        """A copy in another folder has the same fingerprint; so has a second look."""
        moved = tmp_path / "moved"
        moved.mkdir()
        copies = tuple(self._copy(Path(path), moved) for path in paths)
        assert self._fingerprint(paths) == self._fingerprint(paths) == self._fingerprint(copies)
        assert self._fingerprint(paths), "the fingerprint is empty"

    def test_other_content_has_another_fingerprint(self, paths: tuple[str, ...]) -> None:
        """An input that grew is another one, or none at all."""
        before = self._fingerprint(paths)
        for path in map(Path, paths):
            grown = path if path.is_file() else min(item for item in path.rglob("*") if item.is_file())
            with grown.open("ab") as file:
                file.write(b"\n")
        try:
            after = self._fingerprint(paths)
        except NeurofmShardsError:
            return
        assert before != after, "the input changed and its fingerprint did not"

    def test_a_missing_file_is_a_clear_error(self, tmp_path: Path) -> None:
        """One of our errors, naming the file."""
        suffix = (registry().sources.get(self.name).entry.suffixes or ("",))[0]
        with pytest.raises(NeurofmShardsError, match="missing_input"):
            self.source.open((str(tmp_path / f"missing_input{suffix}"),)).close()

    def test_truncated_files_are_clear_errors(self, paths: tuple[str, ...], tmp_path: Path) -> None:
        """A file that was cut short is read, or refused with one of our errors."""
        for number, share in enumerate((0.0, 0.1, 0.5, 0.9)):
            folder = tmp_path / f"cut{number}"
            folder.mkdir()
            copies = tuple(self._copy(Path(path), folder) for path in paths)
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                with file.open("r+b") as cut:
                    cut.truncate(int(file.stat().st_size * share))
            try:
                self._read_all(copies)
            except NeurofmShardsError as error:
                assert str(error), "say what is wrong"  # noqa: PT017  (other errors must fail the test)

    def test_inspect_says_something(self, paths: tuple[str, ...]) -> None:
        """A title and a tree of JSON values."""
        inspection = inspect_input(self.source, paths)
        assert inspection.title
        assert orjson.loads(orjson.dumps(inspection.tree, option=orjson.OPT_SERIALIZE_NUMPY))

    def test_samples_are_what_was_planned(self, paths: tuple[str, ...]) -> None:
        """Number, columns, dtypes and shapes; metadata are JSON."""
        with self._samples(paths) as samples:
            plan = samples.plan()
            assert plan.num_samples > 0
            block = samples.read(0, plan.num_samples)
        assert len(block) == plan.num_samples
        assert sorted(block.columns) == sorted(spec.name for spec in plan.columns)
        for spec in plan.columns:
            self._check_column(spec, block)
        orjson.dumps(list(block.metadata))

    def test_any_range_gives_the_same_samples(self, paths: tuple[str, ...]) -> None:
        """Reading in pieces, backwards or again changes nothing."""
        with self._samples(paths) as samples:
            count = samples.plan().num_samples
            whole = samples.read(0, count)
            cuts = sorted({0, count, *np.random.default_rng(1).integers(0, count + 1, 4).tolist()})
            ranges = list(pairwise(cuts))
            parts = {start: samples.read(start, stop) for start, stop in reversed(ranges)}
        assert same_blocks(whole, concat_blocks([parts[start] for start, _ in ranges]))

    def test_streams_are_as_described(self, paths: tuple[str, ...]) -> None:
        """For recordings: unique paths, reads of the promised shape and dtype."""
        with self.source.open(paths) as opened:
            if not isinstance(opened, Recording):
                pytest.skip("this source gives samples, not a recording")
            names = [stream.path for stream in opened.streams]
            assert len(set(names)) == len(names), "stream paths must be unique"
            assert opened.session_id
            for stream in opened.streams:
                assert stream.modality in MODALITIES, f"{stream.path}: {stream.modality!r} is none of {MODALITIES}"
                self._check_stream(stream)

    def _read_all(self, paths: tuple[str, ...]) -> None:
        with self.source.open(paths) as opened:
            if isinstance(opened, Recording):
                for stream in opened.streams:
                    self._check_stream(stream)
            else:
                opened.read(0, opened.plan().num_samples)

    def _copy(self, path: Path, folder: Path) -> str:
        if path.is_dir():
            return str(shutil.copytree(path, folder / path.name))
        return str(shutil.copy(path, folder / path.name))

    def _fingerprint(self, paths: tuple[str, ...]) -> str:
        with self.source.open(paths) as opened:
            return opened.fingerprint if isinstance(opened, Recording) else opened.plan().fingerprint

    def _samples(self, paths: tuple[str, ...]) -> Samples:
        opened = self.source.open(paths)
        if isinstance(opened, Recording):
            opened.close()
            pytest.skip("this source gives a recording, not samples")
        return opened

    def _check_column(self, spec: ColumnSpec, block: Block) -> None:
        column = block.columns[spec.name]
        if isinstance(column, Ragged):
            assert spec.ragged, f"{spec.name} is ragged, but was not planned so"
            assert column.values.dtype == np.dtype(spec.dtype)
        elif isinstance(column, np.ndarray):
            assert (column.dtype.str, column.shape[1:]) == (spec.dtype, spec.shape), f"{spec.name} differs from plan"

    def _check_stream(self, stream: object) -> None:
        if isinstance(stream, EventStream):
            times, owner = stream.read()
            assert times.dtype == np.float64
            assert times.shape == owner.shape
            assert len(owner) == 0 or 0 <= owner.min() <= owner.max() < len(stream.owners)
            assert len(set(stream.owners)) == len(stream.owners), "owner ids must be unique"
        elif isinstance(stream, (RegularStream, IrregularStream)):
            stop = min(5, stream.shape[0])
            values = stream.read(0, stop)
            assert values.shape == (stop, *stream.shape[1:])
            assert values.dtype == np.dtype(stream.dtype)
            if isinstance(stream, IrregularStream):
                assert stream.timestamps().shape == (stream.shape[0],)
        else:
            assert isinstance(stream, IntervalStream)
            assert stream.start.shape == stream.stop.shape
            assert all(len(values) == len(stream) for values in stream.columns.values())
