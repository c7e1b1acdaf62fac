"""The table says of every sample what its metadata say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.expressions import compile_expression
from neurofm_shards.format.metadata_table import MetadataTable, part_of, read_part, save_part
from neurofm_shards.format.sidecar import read_arrays, write_arrays

MARK = "0123456789abcdef"
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(), st.text(max_size=5))
ROWS = st.fixed_dictionaries({}, optional={"a": SCALARS, "b": st.text("xy", max_size=2), "c": st.integers(0, 9)})


def same(found, said):
    """Compare what a table says with what was said, exactly."""
    if said is None or (isinstance(said, float) and not math.isfinite(said)):
        return found is None or found != found  # noqa: PLR0124  (NaN)
    return bool(found == said)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(ROWS, min_size=1, max_size=6), min_size=1, max_size=4))
@example([[{"a": False}], [{"a": (1 << 53) + 1}, {"a": 0.0}]])
@example([[{"a": (1 << 53) + 1}], [{"a": 0.0}]])
def test_tables_come_back_and_join(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("meta")
    tables = []
    for i, rows in enumerate(shards):
        save_part(part_of(rows), MARK, folder / str(i))
        tables.append(MetadataTable([read_part(folder / str(i), MARK, len(rows))]))
    table = MetadataTable.concat(tables)
    everything = [row for rows in shards for row in rows]
    assert table.num_rows == len(everything)
    assert set(table.names) == {name for row in everything for name in row}
    for name in table.names:
        values = [row.get(name) for row in everything]
        found = table.values(name).tolist()
        assert all(map(same, found, values))
        unsaid = [v is None or (isinstance(v, float) and not math.isfinite(v)) for v in values]
        assert table.nulls(name).tolist() == unsaid


@pytest.mark.parametrize("value", [1 << 62, -(1 << 62), (1 << 63) - 1])
@pytest.mark.parametrize("length", [1, 5])
def test_a_large_number_that_all_samples_share_comes_back(tmp_path, value, length):
    save_part(part_of([{"a": value}] * length), MARK, tmp_path / "part")
    table = MetadataTable([read_part(tmp_path / "part", MARK, length)])
    assert table.values("a").tolist() == [value] * length


def test_kinds_and_dtypes():
    rows = [{"i": i, "f": i / 2, "t": f"w{i % 2}", "b": i > 1, "gap": None if i else 3, "list": [1]} for i in range(3)]
    table = MetadataTable.of(rows)
    assert {name: (table.kind(name), table.values(name).dtype.str) for name in table.names} == {
        "i": ("int", "<i8"), "f": ("float", "<f8"), "t": ("text", "|O"), "b": ("bool", "|b1"), "gap": ("int", "<f8"),
    }  # fmt: skip
    assert table.omitted == ["list"]
    codes, texts = table.codes("t")
    assert (codes.tolist(), texts) == ([0, 1, 0], ["w0", "w1"])
    with pytest.raises(ConfigError, match="there are: i, f, t, b, gap"):
        table.values("x")
    with pytest.raises(ConfigError, match="lists or dicts"):
        table.values("list")


def test_joining_many_shards_keeps_codes_right():
    tables = [MetadataTable.of([{"s": f"m{(i * j) % 5}"} for j in range(20)]) for i in range(50)]
    table = MetadataTable.concat([*tables, MetadataTable.of([{"other": 1}])])
    codes, texts = table.codes("s")
    expected = [f"m{(i * j) % 5}" for i in range(50) for j in range(20)]
    assert [texts[c] for c in codes[:-1]] == expected == table.values("s").tolist()[:-1]
    assert codes[-1] == -1
    assert table.values("s")[-1] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda h, _: h["columns"][0].__setitem__(1, "nothing"),
        lambda h, _: h["columns"][0].__setitem__(2, "absent"),
        lambda h, _: h["columns"][1].__setitem__(4, [1, []]),
        lambda _, a: a.__setitem__("0", a["0"][:-1]),
        lambda h, _: h.__setitem__("rows", 4),
        lambda h, _: h.__setitem__("fingerprint", "0" * 16),
        lambda h, _: h.__setitem__("version", 9),
    ],
)
def test_hostile_tables_are_refused(tmp_path, change):
    save_part(part_of([{"f": 0.5, "t": "a"}, {"f": 1.5, "t": "b"}, {"f": 1.0, "t": "a"}]), MARK, tmp_path / "x")
    header, arrays = read_arrays(tmp_path / "x")
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(header, arrays)
    write_arrays(tmp_path / "x", header, arrays)
    with pytest.raises(FormatError):
        read_part(tmp_path / "x", MARK, 3)


def test_numpy_scalars_and_numbers_too_large():
    table = MetadataTable.of([{"a": np.float32(0.5), "b": (1 << 64) - 1}, {"a": np.int8(3), "b": 1}])
    assert table.values("a").tolist() == [0.5, 3.0]
    assert table.kind("b") == "json"


LARGE = 864691135567721507
NEIGHBOURS = [LARGE + 64 * i for i in range(-10, 11)]


@pytest.mark.parametrize("lacking", ["nothing", "in the shard", "in another shard", "a whole shard"])
@pytest.mark.parametrize("beside", [None, 0.5])
def test_large_identifiers_stay_exact_in_every_combination_of_shards(lacking, beside):
    rows = [{"root_id": value} for value in NEIGHBOURS]
    odd = [{} if beside is None else {"root_id": beside}]
    tables = {
        "nothing": [MetadataTable.of(rows)],
        "in the shard": [MetadataTable.of([*odd, *rows])],
        "in another shard": [MetadataTable.of(rows), MetadataTable.of([*odd, {"root_id": 7}])],
        "a whole shard": [MetadataTable.of(rows), MetadataTable.of(odd)],
    }
    table = MetadataTable.concat(tables[lacking])
    values = table.values("root_id")
    assert [value for value in values.tolist() if value is not None and value > 1e6] == NEIGHBOURS
    chosen = compile_expression(f"root_id == {LARGE}")({"root_id": values})
    assert chosen.sum() == 1
    assert compile_expression(f"root_id > {LARGE}")({"root_id": values}).sum() == 10
    assert compile_expression(f"root_id in ({LARGE}, {LARGE + 1})")({"root_id": values}).sum() == 1


def test_a_table_that_the_first_release_rounded_is_made_again(tmp_path):
    part = part_of([{"root_id": float(LARGE)}, {"root_id": 0.5}])
    save_part(part, "mark", tmp_path / "new", durable=False)
    assert read_part(tmp_path / "new", "mark", 2).columns["root_id"].kind == "float"
    header, arrays = read_arrays(tmp_path / "new")
    del header["exact"]
    write_arrays(tmp_path / "old", header, arrays, False, None)
    with pytest.raises(FormatError, match="rounded integers"):
        read_part(tmp_path / "old", "mark", 2)
