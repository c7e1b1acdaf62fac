"""``.npy`` files are columns; files that do not fit together are refused by name."""

import os
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.errors import NothingToConvertError, SourceError
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing.sources import SourceConformance


class TestConformance(SourceConformance):
    name = "arrays"

    def make_input(self, folder: Path) -> list[Path]:
        rng = np.random.default_rng(0)
        np.save(folder / "spikes.npy", rng.integers(0, 9, (50, 4, 3)).astype("u1"))
        np.save(folder / "speed.npy", rng.standard_normal(50))
        return [folder / "spikes.npy", folder / "speed.npy"]


class TestFolderConformance(TestConformance):
    def make_input(self, folder: Path) -> list[Path]:
        super().make_input(folder)
        return [folder]


def opened(*paths, **options):
    source = registry().sources.make({"kind": "arrays", **options})
    (group,) = source.group([str(path) for path in paths])
    return source.open(group)


def test_rows_of_all_files_make_one_sample(tmp_path):
    a, b = np.arange(12.0).reshape(6, 2), np.arange(6, dtype=">i4")
    np.save(tmp_path / "Trace A.npy", np.asfortranarray(a))
    np.save(tmp_path / "b.npy", b)
    with opened(tmp_path / "Trace A.npy", tmp_path / "b.npy") as samples:
        assert [(c.name, c.dtype, c.shape) for c in samples.plan().columns] == [
            ("trace_a", "<f8", (2,)),
            ("b", "<i4", ()),
        ]
        block = samples.read(2, 5)
    np.testing.assert_array_equal(block.columns["trace_a"], a[2:5])
    np.testing.assert_array_equal(block.columns["b"], b[2:5])
    assert block.columns["b"].dtype.str == "<i4"
    assert [m["source_row"] for m in block.metadata] == [2, 3, 4]


def test_different_first_dimensions_are_refused_with_names_and_lengths(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    np.save(tmp_path / "b.npy", np.zeros(4))
    with pytest.raises(SourceError, match=r"same first dimension.*a\.npy \(3, 2\), b\.npy \(4,\)"):
        opened(tmp_path)


def test_files_of_equal_names_in_two_folders_are_two_inputs(tmp_path):
    for name in "xy":
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "F.npy", np.zeros((2, 2)))
        np.save(tmp_path / name / "G.npy", np.zeros((2, 2)))
    paths = [str(tmp_path / folder / f"{stem}.npy") for folder in "xy" for stem in "FG"]
    groups = registry().sources.make("arrays").group(paths)
    assert [[Path(path).parent.name for path in group] for group in groups] == [["x", "x"], ["y", "y"]]


def test_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    # written so on purpose: a file such as a stranger sends
    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError, match="Python objects"):
        opened(tmp_path / "a.npy")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr'", b"not an array at all"])
def test_damaged_files_are_refused_by_name(tmp_path, content):
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(SourceError, match=r"bad\.npy"):
        opened(tmp_path / "bad.npy")


def test_a_truncated_file_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(1000))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-8])
    with pytest.raises(SourceError, match=r"a\.npy"):
        opened(tmp_path / "a.npy")


def test_text_single_values_and_empty_folders_are_refused(tmp_path):
    np.save(tmp_path / "t.npy", np.array(["a", "b"]))
    with pytest.raises(SourceError, match="not numeric"):
        opened(tmp_path / "t.npy")
    np.save(tmp_path / "s.npy", np.float64(3))
    with pytest.raises(SourceError, match="single value"):
        opened(tmp_path / "s.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToConvertError, match="no .npy files"):
        opened(tmp_path / "empty")


def test_columns_can_be_chosen(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    np.save(tmp_path / "b.npy", np.zeros(4))
    with opened(tmp_path, columns=["b"]) as samples:
        assert [column.name for column in samples.plan().columns] == ["b"]
    with pytest.raises(SourceError, match=r"no file c\.npy among"):
        opened(tmp_path, columns=["c"])


def test_hidden_files_and_pickled_objects_do_not_stop_a_folder(tmp_path):
    np.save(tmp_path / "F.npy", np.arange(6.0).reshape(3, 2))
    np.save(tmp_path / "ops.npy", np.array({"fs": 30.0}, dtype=object))
    (tmp_path / "._F.npy").write_bytes(b"Mac OS X")
    samples = opened(tmp_path)
    plan = samples.plan()
    assert [spec.name for spec in plan.columns] == ["f"]
    assert [(problem.where, problem.consequence) for problem in plan.problems] == [("ops.npy", "left out")]
    assert np.array_equal(samples.read(0, 3).columns["f"], np.arange(6.0).reshape(3, 2))


def test_all_that_is_wrong_with_files_is_told_at_once_by_cause(tmp_path):
    for name, rows in (("a", 4), ("b", 5)):
        np.save(tmp_path / f"{name}.npy", np.zeros((rows, 2)))
    for name in ("p", "q"):
        np.save(tmp_path / f"{name}.npy", np.array([{}, {}], dtype=object))
    for name in ("s", "t"):
        (tmp_path / f"{name}.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    (tmp_path / "u.npy").write_text("a table")
    (tmp_path / "._x.npy").write_bytes(b"Mac OS X")
    with pytest.raises(SourceError) as told:
        opened(tmp_path)
    assert str(told.value).splitlines() == [
        f"{tmp_path}: 3 of 5 files cannot be taken",
        "  s.npy, t.npy: cannot be read as a .npy array: mmap length is greater than file size",
        "  u.npy: is no .npy file: it does not begin like one",
        f"  arrays in {tmp_path} must have the same first dimension (the samples): a.npy (4, 2), b.npy (5, 2); convert "
        "them apart, or choose with columns",
    ]
    named = [tmp_path / f"{name}.npy" for name in "apqsu"] + [tmp_path / "._x.npy"]
    with pytest.raises(SourceError) as told:
        opened(*named)
    assert [line.partition(":")[0].strip() for line in str(told.value).splitlines()[1:]] == [
        "p.npy, q.npy", "s.npy", "u.npy, ._x.npy",
    ]  # fmt: skip
