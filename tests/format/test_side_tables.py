"""Side tables: the rows that numbers in columns refer to."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.format.manifest import TableEntry, side_table


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
