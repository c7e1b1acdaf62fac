"""What every transform must do."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, cast

from neurofm_shards.blocks import block_from_samples, samples_of
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing.comparing import same


class TransformConformance:
    """Checks a registered transform. Set ``name`` and ``samples`` at least.

    Attributes
    ----------
    name : str
        The transform's registered name.
    options : mapping
        Its options.
    samples : sequence of dict
        Samples to try it on, all with the same fields.
    metadata : mapping
        What is said about each of them.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    samples: ClassVar[Sequence[dict[str, Any]]]
    metadata: ClassVar[Mapping[str, Any]] = {}

    @property
    def transform(self) -> Transform:
        """The transform under test."""
        return cast("Transform", registry().transforms.make({"kind": self.name, **self.options}))

    def results(self) -> list[dict[str, Any] | None]:
        """Return the transformed samples."""
        transform = self.transform
        return [transform(deepcopy(sample), dict(self.metadata)) for sample in self.samples]

    def test_there_is_something_to_check(self) -> None:
        """At least one sample."""
        assert len(self.samples) > 0, "set `samples`"

    def test_results_are_samples_or_none(self) -> None:
        """A dict with string keys, or None for a dropped sample."""
        for result in self.results():
            assert result is None or (isinstance(result, dict) and all(isinstance(key, str) for key in result))

    def test_the_same_sample_gives_the_same_result(self) -> None:
        """Nothing is random and nothing is remembered between samples."""
        transform = self.transform
        first = [transform(deepcopy(sample), dict(self.metadata)) for sample in self.samples]
        again = [transform(deepcopy(sample), dict(self.metadata)) for sample in reversed(self.samples)]
        assert same(first, again[::-1]), "the result depends on what came before"

    def test_the_input_is_left_alone(self) -> None:
        """Neither the sample nor its arrays nor its metadata are changed in place."""
        transform = self.transform
        for sample in self.samples:
            given, metadata = deepcopy(sample), dict(self.metadata)
            transform(given, metadata)
            assert same(given, sample), "the sample was changed in place"
            assert same(metadata, dict(self.metadata)), "the metadata was changed in place"

    def test_a_block_gives_what_its_samples_give(self) -> None:
        """``apply_block`` and ``__call__`` agree."""
        block = block_from_samples(self.samples, [dict(self.metadata) for _ in self.samples])
        changed = [sample for sample, _ in samples_of(self.transform.apply_block(block))]
        kept = [result for result in self.results() if result is not None]
        assert same(changed, kept), "apply_block and __call__ disagree"

    def test_it_can_be_pickled(self) -> None:
        """Worker processes get a copy that does the same."""
        copy = pickle.loads(pickle.dumps(self.transform))  # noqa: S301  (our own bytes)
        results = [copy(deepcopy(sample), dict(self.metadata)) for sample in self.samples]
        assert same(results, self.results())
