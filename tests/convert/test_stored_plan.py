"""A stored plan is the plan: nothing that a task or the manifest is made of is lost on the way."""

from __future__ import annotations

from dataclasses import MISSING, fields

import numpy as np

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.input_plan import InputPlan
from neurofm_shards.convert.input_reader import Expected
from neurofm_shards.convert.inputs import Input
from neurofm_shards.convert.opening import spec_of
from neurofm_shards.convert.planning import combine
from neurofm_shards.convert.stored_plan import read_plan, store_plan
from neurofm_shards.types import ColumnSpec, Problem, SourcePlan

CONFIG = ConversionConfig.of({"shard_size": 7, "on_error": "skip", "windows": {"bin_size_ms": 20.0}})


def input_plan(i, config):
    source = Input((f"/data/s{i}.toy",), "toy", '{"kind":"toy","scale":2.0}', None, (f"s{i}.toy",))
    plan = SourcePlan(
        num_samples=10 + i,
        columns=(
            ColumnSpec("x", "<f4", (5, None), unit="V", optional=True),
            ColumnSpec("unit_ids", "<i4", (3,), table="units"),
        ),
        fingerprint=f"print{i}",
        metadata={"session_id": f"s{i}", "duration_s": 1.5, "splits": {"train": 3}},
        drops={"too short": 2},
        problems=(Problem("units", "odd", "left out", "error", "sample_1"),),
        tables={"units": [{"id": f"{i}/{u}", "depth": 2.5} for u in range(3)]},
        sample_bytes=tuple(range(100, 110 + i)),
        splits=(("train", 7), ("test", 3 + i)),
    )
    return InputPlan(spec_of(source, config), plan, Expected(plan.fingerprint, ((i, 10**18 + i),)), f"s{i}", True)


def test_the_example_fills_every_field():
    item = input_plan(1, CONFIG)
    for value in (item.plan, item.plan.columns[0], item.plan.problems[0]):
        for field in fields(value):
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            assert field.name == "table" or getattr(value, field.name) != default, f"{field.name} is not tried"


def test_what_is_read_is_what_was_stored(toy, tmp_path):
    failed = InputPlan(spec_of(Input(("/data/b.toy",), "toy", "{}", None, ("b.toy",)), CONFIG), None, error="broken")
    plan = combine([input_plan(0, CONFIG), failed, input_plan(1, CONFIG)], CONFIG)
    header = store_plan(tmp_path, plan, 3)
    assert (header.parts, header.total_inputs, header.total_samples) == (3, 3, 21)
    assert read_plan(tmp_path, tmp_path, facts=True) == plan


def test_parts_read_the_same_tasks(toy, tmp_path):
    plan = combine([input_plan(i, CONFIG) for i in range(4)], CONFIG)
    store_plan(tmp_path, plan, 3)
    assert list(read_plan(tmp_path, tmp_path, facts=False).tasks()) == list(plan.tasks())


def test_numbers_of_numpy_are_stored_as_the_manifest_has_them(toy, tmp_path):
    item = input_plan(0, CONFIG)
    item.plan.metadata.update(count=np.int64(3), rate=np.float32(0.5), missing=float("nan"))
    store_plan(tmp_path, combine([item], CONFIG), 1)
    read = read_plan(tmp_path, tmp_path, facts=True).inputs[0].plan.metadata
    assert (read["count"], read["rate"], read["missing"]) == (3, 0.5, None)
