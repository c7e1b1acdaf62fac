"""Damage is found where it is, and what can be saved is saved."""

from __future__ import annotations

import json
import shutil
import tarfile

import pytest

from neurofm_shards import WebDatasetWriter
from neurofm_shards.errors import InputNotFoundError
from neurofm_shards.maintenance.validate import validate_dataset

N, SIZE = 60, 20


@pytest.mark.parametrize("codec", ["pyd", "npy"])
def test_a_sound_data_set_has_no_findings(tmp_path, compression, codec, make):
    make(tmp_path, compression, codec=codec)
    steps = []
    report = validate_dataset(tmp_path, 2, lambda done, total: steps.append((done, total)))
    assert report.ok
    assert report.findings == ()
    assert (report.num_shards, report.num_samples) == (3, N)
    assert steps[-1] == (report.num_bytes, report.num_bytes)
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


def test_a_single_bit_is_found_in_its_sample(tmp_path, make, flip, errors):
    shards = make(tmp_path)
    record = shards[1].stat().st_size // SIZE
    flip(shards[1], 7 * record + 2000)
    assert (shards[1].name, "sample_000000028") in errors(validate_dataset(tmp_path))


@pytest.mark.parametrize("at", [0, 130, 300, 512, 600, 5900, 6200, -1, -1030])
def test_no_byte_of_a_shard_can_change_unnoticed(tmp_path, at, make, flip, errors):
    shards = make(tmp_path)
    flip(shards[0], at)
    assert any(shard == shards[0].name for shard, _ in errors(validate_dataset(tmp_path)))


def test_changed_bytes_are_found_even_when_the_index_was_made_of_them(tmp_path, make, flip):
    shards = make(tmp_path)
    flip(shards[2], shards[2].stat().st_size // 3)
    shutil.rmtree(tmp_path / ".neurofm")
    report = validate_dataset(tmp_path)
    assert [finding.what for finding in report.findings if "as checksum" in finding.what]


def test_missing_unlisted_and_repeated(tmp_path, make, errors):
    shards = make(tmp_path)
    shutil.copy(shards[0], tmp_path / "shard_000009.tar")
    shards[1].unlink()
    report = validate_dataset(tmp_path)
    assert errors(report) == [(shards[1].name, "")]
    assert [finding.where for finding in report.findings if "not listed" in finding.what] == ["shard_000009.tar"]
    (tmp_path / "dataset_metadata.json").unlink()
    assert ("shard_000009.tar", "sample_000000001") in errors(validate_dataset(tmp_path))


def test_a_damaged_manifest_and_an_unfinished_data_set_are_errors(tmp_path, make):
    make(tmp_path / "a")
    (tmp_path / "a" / "dataset_metadata.json").write_bytes(b"{}")
    assert not validate_dataset(tmp_path / "a").ok
    writer = WebDatasetWriter(tmp_path / "b", shard_size=1)
    writer.write_sample({"x": 1})
    assert any("never finished" in finding.what for finding in validate_dataset(tmp_path / "b").findings)
    writer.abort()
    with pytest.raises(InputNotFoundError):
        validate_dataset(tmp_path / "none")


def test_payloads_of_others_are_decoded(tmp_path, errors):
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
