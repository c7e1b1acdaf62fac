"""Damage is found where it is, and what can be saved is saved."""

from __future__ import annotations

import json
import shutil
import tarfile

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter, create_shards_from_arrays
from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.manifest import read_manifest
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.maintenance.validate import validate_dataset

N, SIZE = 60, 20


def make(folder, compression="none", **options):
    rng = np.random.default_rng(3)
    data = {"x": rng.standard_normal((N, 700)), "y": rng.integers(0, 9, (N, 4))}
    create_shards_from_arrays(folder, data, SIZE, {"i": np.arange(N)}, compression=compression, **options)
    return sorted(folder.glob("shard_*"))


@pytest.fixture(params=["none", "gz", "xz", "bz2"])
def compression(request):
    return request.param


def errors(report):
    return [(finding.where, finding.key) for finding in report.findings if finding.severity == "error"]


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 16
    path.write_bytes(raw)


def whole_keys(path):
    with tarfile.open(path) as tar:
        return [name.partition(".")[0] for name in tar.getnames() if name.endswith("metadata.json")]


@pytest.mark.parametrize("codec", ["pyd", "npy"])
def test_a_sound_data_set_has_no_findings(tmp_path, compression, codec):
    make(tmp_path, compression, codec=codec)
    steps = []
    report = validate_dataset(tmp_path, 2, lambda done, total: steps.append((done, total)))
    assert report.ok
    assert report.findings == ()
    assert (report.num_shards, report.num_samples) == (3, N)
    assert steps[-1] == (report.num_bytes, report.num_bytes)
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


def test_a_single_bit_is_found_in_its_sample(tmp_path):
    shards = make(tmp_path)
    record = shards[1].stat().st_size // SIZE
    flip(shards[1], 7 * record + 2000)
    assert (shards[1].name, "sample_000000028") in errors(validate_dataset(tmp_path))


@pytest.mark.parametrize("at", [0, 130, 300, 512, 600, 5900, 6200, -1, -1030])
def test_no_byte_of_a_shard_can_change_unnoticed(tmp_path, at):
    shards = make(tmp_path)
    flip(shards[0], at)
    assert any(shard == shards[0].name for shard, _ in errors(validate_dataset(tmp_path)))


def test_changed_bytes_are_found_even_when_the_index_was_made_of_them(tmp_path):
    shards = make(tmp_path)
    flip(shards[2], shards[2].stat().st_size // 3)
    shutil.rmtree(tmp_path / ".neurofm")
    report = validate_dataset(tmp_path)
    assert [finding.what for finding in report.findings if "as checksum" in finding.what]


def test_missing_unlisted_and_repeated(tmp_path):
    shards = make(tmp_path)
    shutil.copy(shards[0], tmp_path / "shard_000009.tar")
    shards[1].unlink()
    report = validate_dataset(tmp_path)
    assert errors(report) == [(shards[1].name, "")]
    assert [finding.where for finding in report.findings if "not listed" in finding.what] == ["shard_000009.tar"]
    (tmp_path / "dataset_metadata.json").unlink()
    assert ("shard_000009.tar", "sample_000000001") in errors(validate_dataset(tmp_path))


def test_a_damaged_manifest_and_an_unfinished_data_set_are_errors(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "a" / "dataset_metadata.json").write_bytes(b"{}")
    assert not validate_dataset(tmp_path / "a").ok
    writer = WebDatasetWriter(tmp_path / "b", shard_size=1)
    writer.write_sample({"x": 1})
    assert any("never finished" in finding.what for finding in validate_dataset(tmp_path / "b").findings)
    writer.abort()
    with pytest.raises(InputNotFoundError):
        validate_dataset(tmp_path / "none")


def test_payloads_of_others_are_decoded(tmp_path):
    import io
    import os
    import pickle

    class Bad:
        def __reduce__(self):
            return os.system, ("touch /tmp/never",)

    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for name, payload in (("k.x.pyd", pickle.dumps(Bad())), ("k.z.npy", b"no npy"), ("k.H5.h5", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    report = validate_dataset(tmp_path)
    assert [key for _, key in errors(report)] == ["k", "k"]
    assert any(".h5" in finding.what for finding in report.findings)
    assert any("upper-case" in finding.what for finding in report.findings)


def test_repair_of_a_sound_data_set_changes_nothing(tmp_path):
    make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert repair(tmp_path).findings == ()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.97])
@pytest.mark.parametrize("compression", ["none", "gz", "xz"])
def test_whole_samples_of_a_truncated_shard_are_saved(tmp_path, compression, cut):
    shards = make(tmp_path, compression)
    size = shards[1].stat().st_size
    shards[1].write_bytes(shards[1].read_bytes()[: int(size * cut)])
    report = repair(tmp_path)
    kept = whole_keys(shards[1])
    lost = [key for shard, key in errors(report) if shard == shards[1].name]
    assert sorted(kept + lost) == [f"sample_{i:09d}" for i in range(SIZE + 1, 2 * SIZE + 1)]
    assert len(kept) >= int(SIZE * cut) - 2
    assert validate_dataset(tmp_path).ok
    assert read_manifest(tmp_path).total_samples == N - len(lost)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_shard_of_which_nothing_is_left_stays_but_is_no_longer_listed(tmp_path):
    shards = make(tmp_path, "bz2")  # smaller than one block of bzip2, which is all or nothing
    damaged = shards[1].read_bytes()[:9000]
    shards[1].write_bytes(damaged)
    assert (shards[1].name, "") in errors(repair(tmp_path))
    assert shards[1].read_bytes() == damaged
    assert [shard.shard_name for shard in read_manifest(tmp_path).shards] == [shards[0].name, shards[2].name]
    assert validate_dataset(tmp_path).ok


@pytest.mark.parametrize("indexed", [True, False])
def test_samples_around_the_damage_are_saved(tmp_path, indexed):
    shards = make(tmp_path)
    record = shards[0].stat().st_size // SIZE
    flip(shards[0], 5 * record + 20)
    if not indexed:
        shutil.rmtree(tmp_path / ".neurofm")
    report = repair(tmp_path)
    kept = whole_keys(shards[0])
    expected = [f"sample_{i:09d}" for i in range(1, SIZE + 1) if i != 6]
    assert kept == (expected if indexed else expected[:5])
    assert not report.ok
    assert validate_dataset(tmp_path).ok


def test_a_changed_number_is_never_blessed_with_a_new_checksum(tmp_path):
    shards = make(tmp_path)
    flip(shards[0], shards[0].stat().st_size // SIZE * 3 + 3000)
    assert (shards[0].name, "sample_000000004") in errors(repair(tmp_path))
    assert "sample_000000004" not in whole_keys(shards[0])


def test_the_old_shard_stays_until_the_new_one_stands(tmp_path, monkeypatch):
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


def test_sidecars_and_manifest_are_made_anew_as_they_were(tmp_path, compression):
    make(tmp_path, compression)
    manifest, index = read_manifest(tmp_path), min((tmp_path / ".neurofm").glob("*.meta")).read_bytes()
    shutil.rmtree(tmp_path / ".neurofm")
    (tmp_path / "dataset_metadata.json").unlink()
    assert repair(tmp_path).ok
    remade = read_manifest(tmp_path)
    assert (remade.shards, remade.columns, remade.total_samples) == (manifest.shards, manifest.columns, N)
    assert remade.compression == manifest.compression
    assert min((tmp_path / ".neurofm").glob("*.meta")).read_bytes()[:8] == index[:8]
    assert validate_dataset(tmp_path).ok


def test_an_unfinished_conversion_is_to_be_resumed(tmp_path):
    (tmp_path / ".neurofm").mkdir()
    (tmp_path / ".neurofm" / "journal").write_bytes(b"")
    with pytest.raises(FormatError, match="--resume"):
        repair(tmp_path)
