"""Each check of the transform suite fails on a transform that is broken in just that way."""

import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from neurofm_shards import register_transform
from neurofm_shards.plugins.entries import TransformEntry
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.testing import TransformConformance

sys.path.insert(0, str(Path(__file__).parent))
from running_suites import checks, failing


class Double(Transform):
    """Doubles x, and drops samples whose x begins with 0."""

    def __call__(self, sample, metadata):
        return None if sample["x"][0] == 0 else {**sample, "x": sample["x"] * 2}


class Suite(TransformConformance):
    name = "double"
    samples = ({"x": np.arange(3.0)}, {"x": np.arange(1.0, 4.0)}, {"x": np.full(3, 7.0)})
    metadata = MappingProxyType({"trial": 3})


class Nothing(Suite):
    samples = ()


class GivesLists(Double):
    def __call__(self, sample, metadata):
        return [sample["x"]]

    def apply_block(self, block):
        return block


class NumbersItsFields(Double):
    def __call__(self, sample, metadata):
        return {0: sample["x"]}


class Remembers(Double):
    last = 0.0

    def __call__(self, sample, metadata):
        before, self.last = self.last, float(sample["x"][-1])
        return {"x": sample["x"] + before}


class ChangesArrays(Double):
    def __call__(self, sample, metadata):
        sample["x"] *= 2
        return dict(sample)


class ChangesMetadata(Double):
    def __call__(self, sample, metadata):
        metadata["seen"] = True
        return dict(sample)


class TriplesBlocks(Double):
    def __call__(self, sample, metadata):
        return {"x": sample["x"] * 2}

    def apply_block(self, block):
        return replace(block, columns={"x": block.columns["x"] * 3})


class CannotTravel(Double):
    def __init__(self):
        self.rule = lambda x: x * 2


class ForgetsOnTheWay(Double):
    def __init__(self):
        self.factor = 2.0

    def __getstate__(self):
        return {"factor": 1.0}

    def __call__(self, sample, metadata):
        return {"x": sample["x"] * self.factor}


#: Fault to (transform, suite, checks that fail for it).
BROKEN = {
    "no samples": (Double, Nothing, {"test_there_is_something_to_check"}),
    "lists": (GivesLists, Suite, {"test_results_are_samples_or_none", "test_a_block_gives_what_its_samples_give"}),
    "keys that are no names": (NumbersItsFields, Suite, {"test_results_are_samples_or_none"}),
    "memory": (Remembers, Suite, {"test_the_same_sample_gives_the_same_result"}),
    "arrays in place": (ChangesArrays, Suite, {"test_the_input_is_left_alone"}),
    "metadata in place": (ChangesMetadata, Suite, {"test_the_input_is_left_alone"}),
    "blocks of their own": (TriplesBlocks, Suite, {"test_a_block_gives_what_its_samples_give"}),
    "cannot be pickled": (CannotTravel, Suite, {"test_it_can_be_pickled"}),
    "another after pickling": (ForgetsOnTheWay, Suite, {"test_it_can_be_pickled"}),
}


def register(factory):
    register_transform(TransformEntry(name="double", summary="doubles x", factory=factory))


def test_a_sound_transform_passes(tmp_path):
    register(Double)
    assert failing(Suite, tmp_path) == set()


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_transform_fails_the_check_of_its_fault(fault, tmp_path):
    factory, suite, expected = BROKEN[fault]
    register(factory)
    assert expected <= failing(suite, tmp_path)


def test_every_check_is_known_to_fail():
    assert set.union(*(expected for _, _, expected in BROKEN.values())) == set(checks(TransformConformance))
