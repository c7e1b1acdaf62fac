"""A field has one codec and one type in all samples, whatever the size of shards; None among numbers is a gap."""

from __future__ import annotations

import datetime as dt
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter, create_webdataset_dataloader
from neurofm_shards.errors import EncodeError

torch = pytest.importorskip("torch")


def written(folder, values, shard_size, codec="npy"):
    with WebDatasetWriter(folder, shard_size=shard_size, codec=codec) as writer:
        for value in values:
            writer.write_sample({"y": np.zeros(2, np.float32), "x": value})
    manifest = json.loads((folder / "dataset_metadata.json").read_text())
    return {column["name"]: column for column in manifest["columns"]}


def batches(folder):
    loader = create_webdataset_dataloader(folder, batch_size=3, num_workers=0, shuffle=False)
    return list(loader)


@pytest.mark.parametrize("shard_size", [3, 8])
@pytest.mark.parametrize("codec", ["npy", "pyd"])
@pytest.mark.parametrize(
    "values",
    [
        [*map(np.int64, range(7)), 7],
        [*range(7), np.int64(7)],
        [0.5, 1, np.float32(2.0), 3.25],
        [np.float32(0.5), 1, np.float64(2.0), np.int16(3)],
        [np.arange(2, dtype=np.int64), np.arange(2, dtype=np.int32), np.arange(2, dtype=">i8")],
        [True, np.bool_(False), True],
    ],
)
def test_numbers_of_one_kind_are_one_column_of_one_type(tmp_path, values, shard_size, codec):
    columns = written(tmp_path / "out", values, shard_size, codec)
    assert set(columns) == {"y", "x"}
    assert not columns["x"].get("optional")
    found = [batch["x"] for batch in batches(tmp_path / "out")]
    assert len({tensor.dtype for tensor in found}) == 1
    assert np.array_equal(torch.cat(found).numpy(), np.array([np.asarray(value) for value in values]))


@pytest.mark.parametrize("value", [0.5, np.ones(2)], ids=["number", "array"])
def test_a_sample_whose_only_field_is_a_gap_is_refused(tmp_path, value):
    with WebDatasetWriter(tmp_path / "out") as writer:
        writer.write_sample({"x": value})
        with pytest.raises(EncodeError, match="'x', its only field, is None, a gap among numbers: leave"):
            writer.write_sample({"x": None}, metadata={"trial": 1})
        writer.write_sample({"x": value})
    (batch,) = batches(tmp_path / "out")
    assert batch["x"].shape[0] == 2
    assert set(batch) == {"x", "metadata"}


def test_none_before_any_number_is_a_gap_too(tmp_path):
    columns = written(tmp_path / "out", [None, np.float32(0.5), 2], 10)
    assert (columns["x"]["dtype"], columns["x"]["optional"]) == ("<f4", True)
    (batch,) = batches(tmp_path / "out")
    assert (batch["x"].tolist(), batch["x_valid"].tolist()) == ([0.0, 0.5, 2.0], [False, True, True])


@pytest.mark.parametrize("shard_size", [3, 100])
@pytest.mark.parametrize("first", [0.5, np.float32(0.5), np.ones(2), 7])
def test_none_among_numbers_is_a_gap_that_a_column_tells(tmp_path, first, shard_size):
    values = [first, first, first, first, None, first, None, first]
    columns = written(tmp_path / "out", values, shard_size)
    assert set(columns) == {"y", "x"}
    assert columns["x"]["optional"]
    found = batches(tmp_path / "out")
    assert torch.cat([batch["x_valid"] for batch in found]).tolist() == [value is not None for value in values]
    wanted = np.array([np.zeros_like(first) if value is None else value for value in values])
    known = [batch["x"] for batch in found if bool(batch["x_valid"].any())]
    assert len({tensor.dtype for tensor in known}) == 1
    assert np.array_equal(torch.cat(known).numpy(), wanted[: len(torch.cat(known))])


@pytest.mark.parametrize(
    ("before", "value"),
    [(1, 0.5), (np.int64(1), 0.5), (np.float32(1), np.float64(0.1)), (True, 2), ("text", 3), (np.zeros(2), "text"),
     (np.uint8(1), 300), (np.int32(1), np.arange(2) + 0.5)],
)  # fmt: skip
def test_what_would_change_is_refused_with_the_sample_named(tmp_path, before, value):
    with WebDatasetWriter(tmp_path / "out") as writer:
        writer.write_sample({"x": before}, sample_id="first")
        with pytest.raises(EncodeError, match=r"sample 'odd': field 'x' is .* samples before it hold"):
            writer.write_sample({"x": value}, sample_id="odd")
        writer.write_sample({"x": before}, sample_id="odd")


@pytest.mark.filterwarnings("ignore:.*already holds a data set")
def test_adding_float64_to_float32_converts_what_stays_equal_and_refuses_the_rest(tmp_path):
    written(tmp_path / "out", [np.float32(1.5)], 10)
    with WebDatasetWriter(tmp_path / "out") as writer:
        writer.write_sample({"y": np.zeros(2), "x": np.float64(2.5)})
        with pytest.raises(EncodeError, match="is float64, and the samples before it hold float32"):
            writer.write_sample({"y": np.zeros(2), "x": np.float64(0.1)})
    (batch,) = batches(tmp_path / "out")
    assert (batch["x"].dtype, batch["x"].tolist()) == (torch.float32, [1.5, 2.5])


def test_a_sample_that_was_not_written_decides_nothing(tmp_path):
    with WebDatasetWriter(tmp_path / "out") as writer:
        with pytest.raises(EncodeError):
            writer.write_sample({"x": 1, "y": object()})
        writer.write_sample({"x": "text"})


def test_metadata_take_times_spans_paths_and_numpy_scalars(tmp_path):
    pandas = pytest.importorskip("pandas")
    said = {
        "date": (dt.date(2026, 1, 2), "2026-01-02"),
        "time": (dt.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),  # noqa: DTZ001  (a time without a zone is what is tested)
        "zoned": (dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc), "2026-01-02T00:00:00+00:00"),
        "stamp": (pandas.Timestamp("2026-01-02 03:04"), "2026-01-02T03:04:00"),
        "numpy_time": (np.datetime64("2026-01-02T03:04:05"), "2026-01-02T03:04:05"),
        "span": (dt.timedelta(milliseconds=1500), 1.5),
        "pandas_span": (pandas.Timedelta("1500ms"), 1.5),
        "numpy_span": (np.timedelta64(1500, "ms"), 1.5),
        "path": (Path("a/b.nwb"), "a/b.nwb"),
        "number": (np.int16(3), 3),
        "no_time": (pandas.NaT, None),
        "no_numpy_time": (np.datetime64("NaT", "ns"), None),
        "no_span": (np.timedelta64("NaT", "s"), None),
        "nothing": (pandas.NA, None),
        "times": (np.array(["2026-01-02", "NaT"], "M8[ns]"), ["2026-01-02T00:00:00", None]),
    }
    with WebDatasetWriter(tmp_path / "out") as writer:
        writer.write_sample({"x": 1}, metadata={name: value for name, (value, _) in said.items()})
    with tarfile.open(tmp_path / "out" / "shard_000000.tar") as tar:
        member = next(member for member in tar if member.name.endswith("metadata.json"))
        found = json.load(tar.extractfile(member))
    assert {name: found[name] for name in said} == {name: text for name, (_, text) in said.items()}


def test_a_complex_number_never_joins_a_real_field(tmp_path):
    with WebDatasetWriter(tmp_path) as writer:
        writer.write_sample({"x": np.zeros(3)})
        with pytest.raises(EncodeError, match="complex128"):
            writer.write_sample({"x": np.zeros(3, complex)})


def test_counts_given_as_fractions_become_the_integers_of_the_data_set_that_they_are_added_to(tmp_path):
    with WebDatasetWriter(tmp_path, codec="npy") as writer:
        writer.write_sample({"x": np.array([1, 2], np.uint8)})
    with pytest.warns(UserWarning, match="added"):
        added = WebDatasetWriter(tmp_path, codec="npy")
    with added as writer:
        writer.write_sample({"x": np.array([3.0, 255.0])})
        for lost in ([0.5, 1], [256.0, 1], [-1.0, 1]):
            with pytest.raises(EncodeError, match="float64, and the samples before it hold uint8"):
                writer.write_sample({"x": np.array(lost)})
    (batch,) = batches(tmp_path)
    assert batch["x"].tolist() == [[1, 2], [3, 255]]
