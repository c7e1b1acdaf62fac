"""The card tells what the manifest holds, in Markdown that nothing from a file can break."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import pytest

from neurofm_shards.cli.main import run
from neurofm_shards.format.card import CARD_NAMES, card_text, croissant, markdown, our_cards, write_cards
from neurofm_shards.format.manifest import ColumnEntry, Manifest, ShardEntry, read_manifest
from neurofm_shards.writing.arrays import create_shards_from_arrays

HOSTILE = "a|b\n# title <script> `code` [x](y) *z*"


@pytest.fixture
def manifest():
    facts = {
        "subject_id": "m|1", "extent_s": [0.0, 7200.0], "splits": {"train": 6, "test": 2},
        "facts": {"species": "Mus musculus", "license": "CC-BY-4.0", "experimenter": ["A. Person", "B. Person"]},
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
    said = "# 8 samples in 1 shard\n", "- splits: train 6, test 2", "- recorded: 2.00 h", "- licence: CC-BY-4.0"
    for words in (*said, "- experimenter: A. Person; B. Person", "- sessions: 1 of 1 subject\n"):
        assert words in text
    assert "## Splits" not in text, "no split has a shard of its own"
    assert "| spikes | uint8 | (100, 4) | count | pyd |" in text
    assert "| note | JSON |  |  | json |" in text


def test_sizes_of_splits_are_those_of_their_shards(tmp_path):
    made(tmp_path, 10)
    unsplit = read_manifest(tmp_path)
    shards = [
        shard.model_copy(update={"split": split})
        for shard, split in zip(unsplit.shards, ("train", "train", "test"), strict=True)
    ]
    text = card_text(unsplit.model_copy(update={"shards": shards}))
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.tar"))]
    assert f"| train | 8 | 2 | {sizes[0] + sizes[1]:,} |\n| test | 2 | 1 | {sizes[2]:,} |\n" in text


def test_unknown_subjects_are_not_said_to_be_none(manifest):
    source = {**manifest.sources[0], "facts": {}}
    text = card_text(manifest.model_copy(update={"sources": [source]}))
    assert "- sessions: 1 of unknown subjects\n" in text


def test_that_the_sources_name_no_licence_is_said(manifest):
    source = {**manifest.sources[0], "facts": {"facts": {"lab": "a lab " * 200}}}
    described = manifest.model_copy(update={"sources": [source]})
    assert "- licence: none is named in the sources\n" in card_text(described)
    assert re.search("- lab: a lab .*…\n", card_text(described)), "cut, and visibly so"
    assert "license" not in croissant(described, "reaches")


def test_tables_keep_their_columns_whatever_files_say(manifest):
    rows = [line for line in card_text(manifest).splitlines() if line.startswith("| ")]
    for line in rows:
        assert len(re.findall(r"(?<!\\)\|", line)) == 6
    assert not re.search(r"(?<!\\)<script", card_text(manifest))
    assert "\n" not in markdown(HOSTILE)


@pytest.mark.parametrize("name", CARD_NAMES)
def test_somebodys_own_file_stays(manifest, tmp_path, name):
    write_cards(tmp_path, manifest)
    assert our_cards(tmp_path) == list(CARD_NAMES)
    (tmp_path / name).write_text("mine")
    write_cards(tmp_path, manifest)
    assert (tmp_path / name).read_text() == "mine"
    assert our_cards(tmp_path) == [other for other in CARD_NAMES if other != name]


def test_croissant_has_a_field_for_each_column_and_what_the_files_say(manifest):
    found = croissant(manifest, "reaches", url="https://example.org/reaches")
    fields = {field["name"]: field for field in found["recordSet"][0]["field"]}
    assert {name: field["dataType"] for name, field in fields.items()} == {"spikes": "sc:Integer", "note": "sc:Text"}
    assert fields["spikes"]["@id"] == "samples/spikes"
    assert found["distribution"][0]["includes"] == ["shard_*.tar"]
    assert (found["license"], [one["name"] for one in found["creator"]], found["url"]) == (
        "CC-BY-4.0",
        ["A. Person", "B. Person"],
        "https://example.org/reaches",
    )


def test_whoever_changes_a_description_changes_no_other(manifest):
    before = json.dumps(croissant(manifest, "reaches"))
    described = croissant(manifest, "reaches")
    described["@context"]["data"].clear()  # as mlcroissant does, in its way
    described["@context"].clear()
    assert json.dumps(croissant(manifest, "reaches")) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlcroissant's own, about rdflib
def test_croissant_is_valid(manifest, tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant")
    mlcroissant.Dataset(jsonld=croissant(manifest, "reaches"))
    write_cards(tmp_path, manifest)
    mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")


def made(folder, count, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        create_shards_from_arrays(folder, {"x": np.arange(count * 3).reshape(count, 3)}, shard_size=4, **options)


def told(folder):
    """Return the number of samples that each card gives."""
    described = json.loads((folder / "croissant.json").read_bytes())
    counts = (folder / "README.md").read_text().partition("# ")[2], described["description"]
    return {int(text.split(" ")[0]) for text in counts}, described["name"]


def test_both_cards_follow_every_change_of_the_data_set(tmp_path):
    made(tmp_path / "a", 10)
    made(tmp_path / "copy", 10)
    made(tmp_path / "other", 2, sample_ids=["p", "q"])
    counts, name = told(tmp_path / "a")
    assert (counts, told(tmp_path / "copy")[1]) == ({10}, name), "equal data sets, equal cards"
    made(tmp_path / "a", 3)  # adds
    assert told(tmp_path / "a")[0] == {13}
    assert run(["drop", str(tmp_path / "a"), "--where", "sample_idx_in_shard == 0"]) == 0
    assert (counts := told(tmp_path / "a")[0]) != {13}
    assert run(["compact", str(tmp_path / "a")]) == 0
    assert told(tmp_path / "a")[0] == counts
    assert run(["merge", "-i", str(tmp_path / "copy"), str(tmp_path / "other"), "-o", str(tmp_path / "merged")]) == 0
    assert told(tmp_path / "merged")[0] == {12}
    (tmp_path / "merged/dataset_metadata.json").unlink()
    assert run(["repair", str(tmp_path / "merged")]) == 0
    assert told(tmp_path / "merged")[0] == {12}
    made(tmp_path / "merged", 5, overwrite=True)
    assert told(tmp_path / "merged")[0] == {5}


def test_a_card_that_was_removed_or_taken_over_is_not_written_again_by_a_drop(tmp_path):
    made(tmp_path, 10)
    (tmp_path / "README.md").unlink()
    (tmp_path / "croissant.json").write_text("{}")
    assert run(["drop", str(tmp_path), "--where", "sample_idx_in_shard == 0"]) == 0
    assert not (tmp_path / "README.md").exists()
    assert (tmp_path / "croissant.json").read_text() == "{}"


def test_problems_come_in_the_order_in_which_they_were_found(manifest):
    """Of equally many inputs; a set of texts has another order in every process."""
    found = [f"problem {i * 7 % 11}" for i in range(11)]
    problems = [{"severity": "warning", "what": what, "where": "units", "consequence": "masked"} for what in found]
    sources = [{**manifest.sources[0], "problems": [*problems, problems[0]]}]
    text = card_text(manifest.model_copy(update={"sources": sources}))
    assert re.findall(r"problem \d+", text) == found[: len(re.findall(r"problem \d+", text))]
    assert "problem 0 (1 input)" in text
