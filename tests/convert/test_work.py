"""Tasks: what transforms make has one type in all shards, however large they are and whoever writes them."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards import ShardDataset, create_webdataset_dataloader
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
