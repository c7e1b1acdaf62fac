"""Inputs are opened in runs: small ones together, each once and in order."""

from dataclasses import dataclass, field

import pytest

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.input_reader import KEPT_BYTES, Expected
from neurofm_shards.convert.inputs import Input
from neurofm_shards.convert.opening import open_inputs, spec_of
from neurofm_shards.convert.tasks import Segment, ShardTask, TaskInput, in_turns


@dataclass
class Noted:
    """A dispatcher that runs nothing and notes how many inputs each call is for."""

    workers: int
    knows_workers: bool = True
    runs: list = field(default_factory=list)
    kept: set = field(default_factory=set)

    def in_order(self, calls):
        for call in calls:
            _, specs, kept = call.arguments
            self.runs.append(len(specs))
            self.kept.add(kept)
            yield list(specs)


def specs_of(tmp_path, sizes):
    paths = [tmp_path / f"{number:03}.npz" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        with path.open("wb") as file:
            file.truncate(size)
    return [spec_of(Input((str(path),), "npz", "{}", None, (path.name,)), ConversionConfig()) for path in paths]


MIB = 1 << 20


@pytest.mark.parametrize(
    ("workers", "sizes", "runs"),
    [
        (1, [100] * 3, [1, 1, 1]),
        (2, [100] * 80, [40] * 2),
        (2, [100] * 300, [75] * 4),
        (2, [100] * 3, [2, 1]),
        (2, [8 * MIB] * 24, [8] * 3),
        (2, [100, 100, 100 * MIB, 100] * 4, [2, 1, *[3, 1] * 3, 1]),
        (2, [], []),
    ],
)
def test_small_inputs_are_opened_in_runs_and_large_ones_alone(tmp_path, workers, sizes, runs):
    specs, dispatcher = specs_of(tmp_path, sizes), Noted(workers)
    assert list(open_inputs(specs, dispatcher)) == specs
    assert dispatcher.runs == runs


@pytest.mark.parametrize(("knows", "share"), [(True, KEPT_BYTES // 4), (False, KEPT_BYTES // 16)])
def test_few_stay_open_where_they_do_not_come_back(tmp_path, knows, share):
    dispatcher = Noted(4, knows_workers=knows)
    list(open_inputs(specs_of(tmp_path, [100]), dispatcher))
    assert dispatcher.kept == {share}


def test_a_folder_and_a_file_that_is_gone_are_opened_alone(tmp_path):
    specs = specs_of(tmp_path, [100] * 80)
    (tmp_path / "003.npz").unlink()
    (tmp_path / "005.npz").unlink()
    (tmp_path / "005.npz").mkdir()
    dispatcher = Noted(2)
    assert list(open_inputs(specs, dispatcher)) == specs
    assert dispatcher.runs == [3, 1, 1, 1, 40, 34]


def test_a_shard_is_near_the_worker_that_planned_most_of_its_inputs(tmp_path):
    specs = specs_of(tmp_path, [100] * 3)
    inputs = {
        i: TaskInput(spec, Expected("", ()), None, (), opened_by)
        for i, (spec, opened_by) in enumerate(zip(specs, ("a/1", "a/2", "a/2"), strict=True))
    }
    assert ShardTask(0, tuple(Segment(i, 0, 1, i) for i in inputs), inputs).near == "a/2"


@pytest.mark.parametrize(
    ("planned_by", "order"),
    [
        ("aaaabbbb", [0, 4, 1, 5, 2, 6, 3, 7]),
        ("aabbaabb", [0, 2, 1, 3, 4, 6, 5, 7]),
        ("aaabccaa", [0, 3, 4, 1, 5, 2, 6, 7]),
        ("aaaa", [0, 1, 2, 3]),
    ],
)
def test_shards_near_to_one_worker_take_turns_with_those_near_to_others(tmp_path, planned_by, order):
    (spec,) = specs_of(tmp_path, [100])
    tasks = [
        ShardTask(number, (Segment(0, 0, 1, number),), {0: TaskInput(spec, Expected("", ()), None, (), worker)})
        for number, worker in enumerate(planned_by)
    ]
    assert [task.shard_idx for task in in_turns(iter(tasks))] == order
