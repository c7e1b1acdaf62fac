"""Repair of every kind of damage at once, also when it is killed half way and run again."""

import contextlib
import os
import shutil

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.errors import FormatError
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.reading.collection import ShardCollection

N, SIZE = 70, 10


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
