"""Who recorded, what to cite and the like come from the file however it stores them, and reach card and Croissant."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from neurofm_shards.cli.main import run
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.facts import facts_of
from neurofm_shards_nwb.source import NwbSource

PEOPLE = ["Müller, Ä.", "Doe, J."]
STORED = {
    "variable-length texts": np.array(PEOPLE, dtype=h5py.string_dtype()),
    "fixed-length bytes": np.array([name.encode() for name in PEOPLE]),
    "padded bytes": np.array([name.encode().ljust(30) for name in PEOPLE]),
    "with an empty one": np.array([*PEOPLE, ""], dtype=h5py.string_dtype()),
    "of two dimensions": np.array([PEOPLE], dtype=h5py.string_dtype()),
}
NOTHING = {
    "an empty text": "",
    "a list of an empty text": np.array([""], dtype=h5py.string_dtype()),
    "an empty list": np.zeros(0, dtype="S1"),
    "no dataspace": h5py.Empty("S1"),
}


def trial(nwbfile):
    nwbfile.add_trial(start_time=0.0, stop_time=1.0)


def facts(path, reader="auto"):
    with NwbSource(NwbConfig(reader=reader)).open((str(path),)) as recording:
        return recording.facts


def stored_as(path, value):
    with h5py.File(path, "r+") as file:
        if "experimenter" in file["general"]:
            del file["general/experimenter"]
        file["general"].create_dataset("experimenter", data=value)
    return path


@pytest.mark.parametrize("value", STORED.values(), ids=STORED)
def test_lists_of_texts_are_read_however_they_are_stored(write_nwb, value):
    assert facts(stored_as(write_nwb(trial), value))["experimenter"] == PEOPLE


@pytest.mark.parametrize("value", ["Doe, J.", b"Doe, J.", np.array(["Doe, J."], dtype=h5py.string_dtype())])
def test_one_text_is_a_list_of_one(write_nwb, value):
    assert facts(stored_as(write_nwb(trial), value))["experimenter"] == ["Doe, J."]


@pytest.mark.parametrize("value", NOTHING.values(), ids=NOTHING)
def test_what_is_empty_is_not_told(write_nwb, value):
    assert "experimenter" not in facts(stored_as(write_nwb(trial), value))
    assert facts_of({"lab": h5py.Empty("S1"), "notes": None}) == {}


def test_both_readers_say_the_same(write_nwb):
    said = {
        "experimenter": PEOPLE, "related_publications": ["doi:10.1/a", "doi:10.1/b"], "keywords": ["retina"],
        "experiment_description": "why", "protocol": "P-1", "notes": "a note", "data_collection": "how", "lab": "L",
        "institution": "I", "source_script": "made by a script",
    }  # fmt: skip
    path = write_nwb(trial, **said, source_script_file_name="script.py")
    own = facts(path, reader="h5py")
    assert {name: own[name] for name in said} == said
    assert facts(path, reader="pynwb") == own


def test_nwb_1_is_read_alike(tmp_path):
    with h5py.File(tmp_path / "old.nwb", "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
        file["general/experimenter"], file["general/related_publications"] = "Doe, J.", "doi:10.1/a"
        file["processing/p/UnitTimes/cell_1/times"] = np.arange(5.0)
    said = facts(tmp_path / "old.nwb")
    assert (said["experimenter"], said["related_publications"]) == (["Doe, J."], ["doi:10.1/a"])


def texts(dataset):
    """Read with h5py alone."""
    return [text.decode().strip() for text in np.atleast_1d(dataset[()]) if text.strip()]


def test_those_of_real_files_reach_manifest_card_and_croissant(shared_data, tmp_path, capsys):
    file = shared_data / "anm00239123_photostim_trials.nwb"
    options = ["--sequence-length", "100", "--limit-windows", "5"]
    assert run(["convert", "-i", str(file), "-o", str(tmp_path / "out"), *options]) == 0, capsys.readouterr().err
    with h5py.File(file) as stored:
        people, papers, words = (
            texts(stored["general"][name]) for name in ("experimenter", "related_publications", "keywords")
        )
    assert len(words) == 6
    card = (tmp_path / "out/README.md").read_text()
    assert f"- experimenter: {'; '.join(people)}\n- institution: Janelia Research Campus\n" in card
    assert f"- publications: {'; '.join(papers)}\n" in card
    assert f"- keywords: {'; '.join(words)}\n" in card
    assert "- licence: none is named in the sources" in card
    described = json.loads((tmp_path / "out/croissant.json").read_bytes())
    assert [one["name"] for one in described["creator"]] == people
    assert (described["citeAs"], described["keywords"]) == ("; ".join(papers), words)
