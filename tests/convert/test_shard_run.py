"""Shard runs: finished shards go into place and into the journal, all that have come at once together."""

from __future__ import annotations

import os

import pytest

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.dispatch import Answer, Dispatcher, dispatcher
from neurofm_shards.convert.identity import identity
from neurofm_shards.convert.planning import plan_conversion
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.convert.shard_run import ShardRun
from neurofm_shards.events import ignore
from neurofm_shards.writing.journal import JournalHeader
from neurofm_shards.writing.output_folder import OutputFolder

OPTIONS = {"shard_size": 2, "durable": True}


class Together(Dispatcher):
    """Runs all calls before it hands the first answer over."""

    def as_they_come(self, calls):
        answers = [Answer(call.function(*call.arguments), "here", 0.1) for call in calls]
        self.begin()
        yield answers


@pytest.fixture
def run(toys, toy, tmp_path):
    """Write seven shards that come together; ``begin`` is called when all are staged."""
    paths = toys(a={"n": 9}, b={"n": 5})
    config = ConversionConfig.of(OPTIONS)

    def write(begin):
        with dispatcher(None, 1) as made:
            plan = plan_conversion(paths, config, made)
            together = Together(lambda: made)
            together.begin = begin
            output = OutputFolder(tmp_path / "out")
            header = JournalHeader("convert", identity(plan), plan.total_shards, durable=True)
            with ShardRun(output, config, header, None, together, ignore) as run:
                run.run(plan)
        return output, paths

    return write


def test_shards_that_come_together_are_synced_together(run, monkeypatch):
    synced, real = [], os.fsync

    def count(descriptor):
        synced.append(descriptor)
        real(descriptor)

    output, _ = run(lambda: monkeypatch.setattr(os, "fsync", count))
    assert len(output.journal().shards) == 7
    assert len(synced) == 4, "the journal before and after; the folders of shards and of indexes"


@pytest.mark.parametrize("at", [0, 1, 2, 9, 20])
def test_shards_are_named_before_the_first_is_moved_and_recorded_after_the_last(run, monkeypatch, tmp_path, tree, at):
    moved, real = [], os.replace

    def fail_at(*args, **options):
        moved.append(args)
        if len(moved) > at:
            raise KeyboardInterrupt
        real(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        run(lambda: patch.setattr(os, "replace", fail_at))
    output = OutputFolder(tmp_path / "out")
    assert output.journal().announced == {f"shard_{k:06d}.tar" for k in range(7)}
    assert output.journal().shards == {}
    paths = sorted(map(str, (tmp_path / "in").iterdir()))
    convert_inputs(paths, tmp_path / "out", OPTIONS, mode="resume")
    convert_inputs(paths, tmp_path / "whole", OPTIONS)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
