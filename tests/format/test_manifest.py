"""The manifest: one text for one content, and nothing hostile gets in."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.manifest import (
    ColumnEntry,
    Manifest,
    ShardEntry,
    TableEntry,
    manifest_bytes,
    merge_columns,
    parse_manifest,
    read_manifest,
    side_table,
    write_manifest,
)


def entry(i, **changes):
    values = {"shard_name": f"shard_{i:06d}.tar", "shard_idx": i, "num_samples": 5, "shard_bytes": 9, "tar_bytes": 9,
              "checksum": "0" * 32, "samples": [{"sample_id": "a", "x": 1.0}]}  # fmt: skip
    return values | changes


def values(**changes):
    found = {"format_version": 1, "total_samples": 10, "total_shards": 2, "shard_size": 5, "compression": "none",
             "modalities": ["x"], "columns": [{"name": "x", "codec": "pyd", "extension": "pyd", "dtype": "<f4",
             "shape": [3, None]}], "shards": [entry(0), entry(1)]}  # fmt: skip
    return found | changes


def test_a_manifest_comes_back(tmp_path):
    manifest = Manifest.model_validate(values(statistics={"split": None}, sources=[{"files": ["a"]}]))
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest_bytes(manifest) == (tmp_path / "dataset_metadata.json").read_bytes()
    assert manifest.columns[0].spec.shape == (3, None)
    seed_keys = {"total_samples", "total_shards", "shard_size", "compression", "shards"}
    read = json.loads(manifest_bytes(manifest))
    assert seed_keys <= set(read)
    assert {"shard_name", "shard_idx", "num_samples", "samples"} <= set(read["shards"][0])


def test_no_manifest_is_none(tmp_path):
    assert read_manifest(tmp_path) is None


HOSTILE = {
    "no JSON": b"{",
    "no object": b"[]",
    "deep": b"[" * 100_000,
    "deep inside": json.dumps(values()).replace('"x": 1.0', '"x": ' + "[" * 2000 + "]" * 2000).encode(),
    "NaN": json.dumps(values(config={"a": float("nan")})).encode(),
    "another program": b'{"total_samples": 1}',
    "newer version": json.dumps(values(format_version=2)).encode(),
    "version as text": json.dumps(values(format_version="1")).encode(),
    "key twice": json.dumps(values())
    .replace('"total_samples": 10', '"total_samples": 99, "total_samples": 10')
    .encode(),
    "inner key twice": json.dumps(values()).replace('"x": 1.0', '"x": 1.0, "x": 2.0').encode(),
    **{
        name: json.dumps(values(**changes)).encode()
        for name, changes in {
            "unknown key": {"more": 1},
            "negative": {"total_samples": -1},
            "huge": {"total_samples": 1 << 60},
            "number as text": {"total_samples": "10"},
            "truth as number": {"shard_size": True},
            "zero shard size": {"shard_size": 0},
            "sum": {"total_samples": 11},
            "count": {"total_shards": 3},
            "shards are no list": {"shards": {}},
            "columns twice": {"columns": values()["columns"] * 2},
            "one name twice": {"shards": [entry(0), entry(1, shard_name="shard_000000.tar")]},
            "one number twice": {"shards": [entry(0), entry(1, shard_idx=0)]},
            "table elsewhere": {"tables": {"units": {"file": "../units.json", "rows": 1}}},
            "table in the root": {"tables": {"units": {"file": "/etc/passwd", "rows": 1}}},
            "table up inside": {"tables": {"units": {"file": ".neurofm/../x", "rows": 1}}},
            **{
                f"name {bad!r}": {"shards": [entry(0), entry(1, shard_name=bad)]}
                for bad in (
                    "../a.tar",
                    "/a.tar",
                    "a/b.tar",
                    "",
                    ".",
                    "..",
                    ".hidden.tar",
                    "a\0.tar",
                    "a\n.tar",
                    "ä.tar",
                    "x" * 300,
                )
            },
        }.items()
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests_are_format_errors(name):
    with pytest.raises(FormatError, match=r"dataset_metadata\.json"):
        parse_manifest(HOSTILE[name])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.binary(max_size=6))
def test_no_damage_gives_anything_but_a_format_error(at, garbage):
    raw = manifest_bytes(Manifest.model_validate(values()))
    at %= len(raw)
    with contextlib.suppress(FormatError):
        parse_manifest(raw[:at] + garbage + raw[at + len(garbage) :])


def test_columns_of_shards_are_joined():
    def column(**changes):
        base = {"name": "x", "codec": "pyd", "extension": "pyd", "dtype": "<f4", "shape": [3, 2], "num_samples": 5}
        return ColumnEntry.model_validate(base | changes)

    assert merge_columns([[column()], [column()]], 10) == [column(num_samples=10)]
    assert merge_columns([[column()], []], 10) == [column(optional=True)]
    assert merge_columns([[column()], [column(shape=[4, 2])]], 10)[0].shape == [None, 2]
    assert merge_columns([[column()], [column(shape=[4])]], 10)[0].shape is None
    joined = merge_columns([[column(unit="V")], [column(dtype="<f8", unit="s")]], 10)[0]
    assert (joined.dtype, joined.shape, joined.unit) == (None, None, None)


def test_shard_entries_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        ShardEntry.model_validate(entry(0)).num_samples = 3


@pytest.fixture
def folder(tmp_path):
    rows = [{"id": f"day{i}/units/7", "quality": "good"} for i in range(3)]
    (tmp_path / ".neurofm" / "tables").mkdir(parents=True)
    (tmp_path / ".neurofm" / "tables" / "units.json").write_text(json.dumps(rows))
    return tmp_path


def of(rows):
    return SimpleNamespace(tables={"units": TableEntry(file=".neurofm/tables/units.json", rows=rows)})


def test_a_table_is_its_rows_in_order(folder):
    assert [row["id"] for row in side_table(folder, of(3), "units")] == ["day0/units/7", "day1/units/7", "day2/units/7"]


def test_rows_that_the_manifest_does_not_know_are_not_given(folder):
    assert len(side_table(folder, of(2), "units")) == 2


def test_a_table_that_is_not_there_lists_those_that_are(folder):
    with pytest.raises(ConfigError, match="no table 'electrodes'; there are: units"):
        side_table(folder, of(3), "electrodes")
    with pytest.raises(ConfigError, match="there are: none"):
        side_table(folder, None, "units")


@pytest.mark.parametrize("text", ["", "{}", "[1, 2, 3]", '[{"id": "a"}]', '[{"id": "a"}'])
def test_a_damaged_table_is_an_error_that_names_it(folder, text):
    (folder / ".neurofm" / "tables" / "units.json").write_text(text)
    with pytest.raises(FormatError, match=r"units\.json"):
        side_table(folder, of(3), "units")


def test_a_table_that_was_not_copied_along_is_an_error_that_says_so(folder):
    (folder / ".neurofm" / "tables" / "units.json").unlink()
    with pytest.raises(FormatError, match="Copy the hidden folder"):
        side_table(folder, of(3), "units")
