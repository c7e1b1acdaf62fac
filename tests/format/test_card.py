"""The card tells what the manifest holds, in Markdown that nothing from a file can break."""

from __future__ import annotations

import re

import pytest

from neurofm_shards.format.card import card_text, is_our_card, markdown, write_card
from neurofm_shards.format.croissant import croissant
from neurofm_shards.format.manifest import ColumnEntry, Manifest, ShardEntry

HOSTILE = "a|b\n# title <script> `code` [x](y) *z*"


@pytest.fixture
def manifest():
    facts = {
        "subject_id": "m|1", "extent_s": [0.0, 7200.0], "splits": {"train": 6, "test": 2},
        "facts": {"species": "Mus musculus", "license": "CC-BY-4.0", "experimenter": "A. Person"},
    }  # fmt: skip
    problem = {"severity": "warning", "what": HOSTILE, "where": "units", "consequence": "masked"}
    source = {"files": ["a.nwb"], "session_id": HOSTILE, "num_samples": 8, "facts": facts, "problems": [problem]}
    return Manifest(
        total_samples=8, total_shards=1, shard_size=10, compression="none", modalities=["spikes", "note"],
        columns=[
            ColumnEntry(name="spikes", codec="pyd", extension="pyd", dtype="|u1", shape=[100, 4], unit="count"),
            ColumnEntry(name="note", codec="json", extension="json"),
        ],
        shards=[
            ShardEntry(
                shard_name="shard_000000.tar", shard_idx=0, num_samples=8, shard_bytes=9, tar_bytes=9, checksum="0" * 32
            )
        ],
        sources=[source],
    )  # fmt: skip


def test_it_tells_sizes_splits_sessions_and_dtypes_as_people_write_them(manifest):
    text = card_text(manifest)
    for words in ("# 8 samples in 1 shards", "- splits: train 6, test 2", "- recorded: 2.00 h", "- license: CC-BY-4.0"):
        assert words in text
    assert "| spikes | uint8 | (100, 4) | count | pyd |" in text
    assert "| note | JSON |  |  | json |" in text


def test_tables_keep_their_columns_whatever_files_say(manifest):
    rows = [line for line in card_text(manifest).splitlines() if line.startswith("| ")]
    for line in rows:
        assert len(re.findall(r"(?<!\\)\|", line)) == 6
    assert not re.search(r"(?<!\\)<script", card_text(manifest))
    assert "\n" not in markdown(HOSTILE)


def test_somebodys_own_readme_stays(manifest, tmp_path):
    write_card(tmp_path, manifest)
    assert is_our_card(tmp_path / "README.md")
    (tmp_path / "README.md").write_text("mine")
    write_card(tmp_path, manifest)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_croissant_has_a_field_for_each_column_and_what_the_files_say(manifest):
    found = croissant(manifest, "reaches", url="https://example.org/reaches")
    fields = {field["name"]: field for field in found["recordSet"][0]["field"]}
    assert {name: field["dataType"] for name, field in fields.items()} == {"spikes": "sc:Integer", "note": "sc:Text"}
    assert fields["spikes"]["@id"] == "samples/spikes"
    assert found["distribution"][0]["includes"] == ["shard_*.tar"]
    assert (found["license"], found["creator"]["name"], found["url"]) == (
        "CC-BY-4.0",
        "A. Person",
        "https://example.org/reaches",
    )


def test_croissant_is_valid(manifest, tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant")
    mlcroissant.Dataset(jsonld=croissant(manifest, "reaches"))


def test_problems_come_in_the_order_in_which_they_were_found(manifest):
    """Of equally many inputs; a set of texts has another order in every process."""
    found = [f"problem {i * 7 % 11}" for i in range(11)]
    problems = [{"severity": "warning", "what": what, "where": "units", "consequence": "masked"} for what in found]
    sources = [{**manifest.sources[0], "problems": [*problems, problems[0]]}]
    text = card_text(manifest.model_copy(update={"sources": sources}))
    assert re.findall(r"problem \d+", text) == found[: len(re.findall(r"problem \d+", text))]
    assert "problem 0 (1 inputs)" in text
