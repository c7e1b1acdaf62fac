"""Tasks: what transforms make has one type in all shards, however large they are and whoever writes them."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards import ShardDataset, create_webdataset_dataloader
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.parts import Part, commit_parts, plan_parts, run_part
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import EncodeError


def options(values, size):
    return {"shard_size": size, "transforms": [{"kind": "label", "values": values}]}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize(
    ("values", "codec", "dtype"),
    [
        ("[np.int64(3), 0, 0, 0, 0, 0, 0]", "pyd", "<i8"),
        ("[np.float32(1), np.float64(0.5), 2]", "pyd", "<f4"),
        ("[1.5, 2, None, np.float32(3), None, None]", "json", None),
        ("[None, np.float32(3), 1]", "pyd", "<f4"),
        ("[np.ones(2), np.zeros(2, 'f4'), np.arange(2)]", "pyd", "<f8"),
        ("[True, np.bool_(False)]", "json", None),
    ],
)
def test_fields_that_transforms_make_have_one_type(toys, tmp_path, values, codec, dtype, size, workers):
    out = tmp_path / "out"
    convert_inputs(toys(a={"n": 9}, b={"n": 5}), out, options(values, size), workers=workers)
    samples = ShardDataset(out)
    made = [column for column in samples.collection.manifest.columns if column.name.startswith("label")]
    assert [(column.name, column.codec, column.dtype) for column in made] == [("label", codec, dtype)]
    said = eval(values, {"np": np})  # noqa: S307  (the test's own)
    for i in range(14):
        wanted, found = said[(i if i < 9 else i - 9) % len(said)], samples[i]
        assert ("label" in found) == (wanted is not None)
        assert wanted is None or np.array_equal(found["label"], wanted)
    loader = create_webdataset_dataloader(out, batch_size=3, num_workers=0)
    assert len({batch["label"].dtype for batch in loader if "label" in batch}) == 1


@pytest.mark.parametrize(
    "values", ["[np.float32(1)] * 11 + [np.float64(0.1)]", "[1] * 11 + [np.arange(2)]", "[1] * 11 + ['a']"]
)
def test_what_does_not_fit_the_first_samples_is_refused_with_its_place(toys, tmp_path, values):
    with pytest.raises(EncodeError, match=r"a\.toy, sample 11: field 'label' is "):
        convert_inputs(toys(a={"n": 20}), tmp_path / "out", options(values, 3))


def test_a_first_block_that_is_dropped_decides_nothing(toys, tmp_path):
    transforms = [{"kind": "drop-below", "row": 6}, {"kind": "label", "values": "[1, 2]"}]
    convert_inputs(toys(a={"n": 9}), tmp_path / "out", {"shard_size": 3, "transforms": transforms})
    assert [sample["label"] for sample in ShardDataset(tmp_path / "out")] == [1, 2, 1]


LATE = "[None] * 300 + {0} + [None] * 50 + {1} + [None] * 50"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("size", [40, 1000])
@pytest.mark.parametrize(("one", "codec", "dtype"), [("[2, 3]", "json", None), ("[np.float32(1)]", "pyd", "<f4")])
def test_a_field_that_the_first_samples_do_not_have_has_one_type(toys, tmp_path, one, codec, dtype, size, workers):
    convert_inputs(toys(a={"n": 420}), tmp_path / "out", options(LATE.format(one, one), size), workers=workers)
    samples = ShardDataset(tmp_path / "out")
    (made,) = [column for column in samples.collection.manifest.columns if column.name == "label"]
    assert (made.codec, made.dtype) == (codec, dtype)
    said = eval(LATE.format(one, one), {"np": np})  # noqa: S307  (the test's own)
    assert [samples[i].get("label") for i in range(420)] == [said[i % len(said)] for i in range(420)]


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [
        ("[2]", "[2.5]", {"int", "float"}),
        ("[np.float32(1)]", "[np.float64(0.1)]", {"float32", "float64"}),
        ("['a']", "[3]", {"no numbers", "int"}),
        ("[np.ones(2)]", "[np.ones(2, 'i4')]", {"float64", "int32"}),
    ],
)
def test_two_types_found_by_two_shards_are_one_error_that_names_both(toys, tmp_path, one, other, kinds):
    paths, config = toys(a={"n": 420}), options(LATE.format(one, other), 40)
    with pytest.raises(EncodeError, match=r"field 'label' is .*convert again with mode='overwrite'") as told:
        convert_inputs(paths, tmp_path / "out", config)
    text = str(told.value)
    assert all(kind in text for kind in kinds)
    assert all(f"sample {i} (shard {i // 40})" in text for i in (300, 351))
    assert not (tmp_path / "out" / "dataset_metadata.json").exists()
    with pytest.raises(EncodeError, match="field 'label' is "):
        convert_inputs(paths, tmp_path / "out", config, mode="resume")


@pytest.mark.parametrize("values", ["[2] * 200 + [2.5] * 220", "[None] * 199 + [2] + [None] * 220 + [2.5]"])
def test_two_types_found_by_two_parts_are_told_when_they_are_joined(toys, tmp_path, values):
    config = ConversionConfig.of(options(values, 40))
    plan_parts(toys(a={"n": 421}), tmp_path / "out", config, parts=2)
    for k in (1, 2):
        run_part(tmp_path / "out", Part(k, 2))
    with pytest.raises(EncodeError, match="field 'label' is float.* and int in "):
        commit_parts(tmp_path / "out")
    assert not (tmp_path / "out" / "dataset_metadata.json").exists()


@pytest.mark.parametrize(("first", "added"), [("[1, 2]", "[1.5]"), ("['a']", "[1]")])
def test_what_is_added_has_the_types_that_the_data_set_has(toys, tmp_path, first, added):
    a, b = toys(a={"n": 4}, b={"n": 4})
    (tmp_path / "values").write_text(first)
    read = options(f"eval(__import__('pathlib').Path({str(tmp_path / 'values')!r}).read_text())", 3)
    convert_inputs([a], tmp_path / "out", read)
    (tmp_path / "values").write_text(added)
    with pytest.raises(EncodeError, match="field 'label' is "):
        convert_inputs([a, b], tmp_path / "out", read, mode="append")
