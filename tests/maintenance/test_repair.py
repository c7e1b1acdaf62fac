"""Repair of every kind of damage at once, also when it is killed half way and run again."""

import contextlib
import os
import shutil
import tarfile

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.errors import FormatError
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.reading.collection import ShardCollection

N, SIZE = 70, 10
#: Of the data set that `make` makes.
SAMPLES, SAMPLES_PER_SHARD = 60, 20


class Killed(BaseException):
    """Stands for the end of the process at this very line."""


def values():
    return np.random.default_rng(3).standard_normal((N, 300))


def damaged(folder, suffix):
    """Make a data set with every kind of damage; shard 6 alone is as it was."""
    create_shards_from_arrays(folder, {"x": values()}, SIZE, compression=suffix[1:] or "none")
    shards = sorted(folder.glob("shard_*"))
    os.truncate(shards[0], shards[0].stat().st_size // 2)
    flipped = bytearray(shards[1].read_bytes())
    flipped[len(flipped) // 2] ^= 4
    shards[1].write_bytes(flipped)
    (folder / f".neurofm/{shards[2].name}.idx").unlink()
    (folder / f".neurofm/{shards[3].name}.meta").unlink()
    shutil.copy(folder / f".neurofm/{shards[5].name}.idx", folder / f".neurofm/{shards[4].name}.idx")  # stale
    shards[5].unlink()
    shutil.copy(shards[6], folder / "copy_of_a_shard.tar.old")
    (folder / "notes.txt").write_text("kept")
    return shards


def rows(folder):
    with ShardCollection.open(folder, verify=True) as data:
        found = np.arange(data.num_samples)
        keys = data.keys(found)
        np.testing.assert_array_equal(data.gather(found)["x"], values()[[int(key[-9:]) - 1 for key in keys]])
        return keys


@pytest.mark.parametrize("manifest", ["kept", "gone", "damaged"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_all_damage_at_once_is_repaired_and_what_is_gone_is_said(tmp_path, suffix, manifest):
    shards = damaged(tmp_path, suffix)
    if manifest == "gone":
        (tmp_path / "dataset_metadata.json").unlink()
    elif manifest == "damaged":
        (tmp_path / "dataset_metadata.json").write_bytes(b'{"shards": [')
    assert not validate_dataset(tmp_path).ok or manifest == "gone"
    report = repair(tmp_path)
    kept = rows(tmp_path)
    assert len(kept) >= 40 + (0 if suffix else 4 + 9)
    assert {key for key in kept if 20 < int(key[-9:]) <= 50 or int(key[-9:]) > 60} == {
        f"sample_{i:09d}" for i in (*range(21, 51), *range(61, 71))
    }
    lost = {finding.where for finding in report.findings if finding.severity == "error"}
    assert {shards[0].name, shards[1].name} <= lost
    assert (shards[5].name in lost) == (manifest == "kept")
    assert validate_dataset(tmp_path).ok
    assert (tmp_path / "notes.txt").read_text() == "kept"
    assert repair(tmp_path).findings == ()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_repair_killed_at_any_step_is_finished_by_the_next(tmp_path, suffix, monkeypatch):
    damaged(tmp_path / "whole", suffix)
    repair(tmp_path / "whole")
    want = rows(tmp_path / "whole")
    replace = os.replace
    for number in range(60):
        folder = tmp_path / "out"
        shutil.rmtree(folder, ignore_errors=True)
        shards = damaged(folder, suffix)
        calls = []

        def dying(source, target, calls=calls, number=number, **folders):
            calls.append(target)
            if len(calls) > number:
                raise Killed
            replace(source, target, **folders)

        finished = False
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            with contextlib.suppress(Killed):
                repair(folder)
                finished = True
        with contextlib.suppress(FormatError):
            assert set(want) >= set(rows(folder))
        with ShardCollection.open(folder / shards[6].name) as one:  # what was whole stays readable
            np.testing.assert_array_equal(one.gather(np.arange(SIZE))["x"], values()[60:])
        repair(folder)
        assert rows(folder) == want
        assert validate_dataset(folder).ok
        if finished:
            break
    assert finished
    assert number >= 6


def whole_keys(path):
    with tarfile.open(path) as tar:
        return [name.partition(".")[0] for name in tar.getnames() if name.endswith("metadata.json")]


def test_repair_of_a_sound_data_set_changes_nothing(tmp_path, make):
    make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert repair(tmp_path).findings == ()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.97])
@pytest.mark.parametrize("compression", ["none", "gz", "xz"])
def test_whole_samples_of_a_truncated_shard_are_saved(tmp_path, compression, cut, make, errors):
    shards = make(tmp_path, compression)
    size = shards[1].stat().st_size
    shards[1].write_bytes(shards[1].read_bytes()[: int(size * cut)])
    report = repair(tmp_path)
    kept = whole_keys(shards[1])
    lost = [key for shard, key in errors(report) if shard == shards[1].name]
    assert sorted(kept + lost) == [f"sample_{i:09d}" for i in range(SAMPLES_PER_SHARD + 1, 2 * SAMPLES_PER_SHARD + 1)]
    assert len(kept) >= int(SAMPLES_PER_SHARD * cut) - 2
    assert validate_dataset(tmp_path).ok
    assert read_manifest(tmp_path).total_samples == SAMPLES - len(lost)
    assert not list(tmp_path.rglob("*.partial"))


def test_neighbouring_losses_are_one_finding(tmp_path, make, flip):
    shards = make(tmp_path)
    record = shards[0].stat().st_size // SAMPLES_PER_SHARD
    for sample in (2, 5, 6, 7, 8):  # counted from 0; keys count from 1
        flip(shards[0], sample * record + 20)
    lost = [finding for finding in repair(tmp_path).findings if finding.severity == "error"]
    assert [(finding.key, finding.what, finding.consequence) for finding in lost] == [
        ("sample_000000003", "it is damaged or cut off", "the sample is gone"),
        ("sample_000000006 to sample_000000009", "4 samples are damaged or cut off", "the samples are gone"),
    ]


def test_a_shard_of_which_nothing_is_left_stays_but_is_no_longer_listed(tmp_path, make, errors):
    shards = make(tmp_path, "bz2")  # smaller than one block of bzip2, which is all or nothing
    damaged = shards[1].read_bytes()[:9000]
    shards[1].write_bytes(damaged)
    assert (shards[1].name, "") in errors(repair(tmp_path))
    assert shards[1].read_bytes() == damaged
    assert [shard.shard_name for shard in read_manifest(tmp_path).shards] == [shards[0].name, shards[2].name]
    assert validate_dataset(tmp_path).ok


def test_findings_name_their_shard_once(tmp_path, make):
    shards = make(tmp_path)
    shards[0].write_bytes(b"")
    shards[1].write_bytes(shards[1].read_bytes()[:9000])
    findings = [*validate_dataset(tmp_path).findings, *repair(tmp_path).findings]
    assert {shard.name for shard in shards[:2]} <= {finding.where for finding in findings}
    assert not [finding.what for finding in findings if finding.where and finding.where in finding.what]


@pytest.mark.parametrize("indexed", [True, False])
def test_samples_around_the_damage_are_saved(tmp_path, indexed, make, flip):
    shards = make(tmp_path)
    record = shards[0].stat().st_size // SAMPLES_PER_SHARD
    flip(shards[0], 5 * record + 20)
    if not indexed:
        shutil.rmtree(tmp_path / ".neurofm")
    report = repair(tmp_path)
    kept = whole_keys(shards[0])
    expected = [f"sample_{i:09d}" for i in range(1, SAMPLES_PER_SHARD + 1) if i != 6]
    assert kept == (expected if indexed else expected[:5])
    assert not report.ok
    assert validate_dataset(tmp_path).ok


def test_a_changed_number_is_never_blessed_with_a_new_checksum(tmp_path, make, flip, errors):
    shards = make(tmp_path)
    flip(shards[0], shards[0].stat().st_size // SAMPLES_PER_SHARD * 3 + 3000)
    assert (shards[0].name, "sample_000000004") in errors(repair(tmp_path))
    assert "sample_000000004" not in whole_keys(shards[0])


def test_the_old_shard_stays_until_the_new_one_stands(tmp_path, monkeypatch, make):
    shards = make(tmp_path)
    damaged = shards[0].read_bytes()[:50_000]
    shards[0].write_bytes(damaged)

    def broken(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("neurofm_shards.writing.output_folder.Folder.move", broken)
    with pytest.raises(OSError, match="disk full"):
        repair(tmp_path)
    assert shards[0].read_bytes() == damaged
    assert not list(tmp_path.rglob("*.partial"))


def test_sidecars_and_manifest_are_made_anew_as_they_were(tmp_path, compression, make):
    make(tmp_path, compression)
    manifest, index = read_manifest(tmp_path), min((tmp_path / ".neurofm").glob("*.meta")).read_bytes()
    shutil.rmtree(tmp_path / ".neurofm")
    (tmp_path / "dataset_metadata.json").unlink()
    assert repair(tmp_path).ok
    remade = read_manifest(tmp_path)
    assert (remade.shards, remade.columns, remade.total_samples) == (manifest.shards, manifest.columns, SAMPLES)
    assert remade.compression == manifest.compression
    assert min((tmp_path / ".neurofm").glob("*.meta")).read_bytes()[:8] == index[:8]
    assert validate_dataset(tmp_path).ok


def test_an_unfinished_conversion_is_to_be_resumed(tmp_path):
    (tmp_path / ".neurofm").mkdir()
    (tmp_path / ".neurofm" / "journal").write_bytes(b"")
    with pytest.raises(FormatError, match="mode='resume'"):
        repair(tmp_path)
