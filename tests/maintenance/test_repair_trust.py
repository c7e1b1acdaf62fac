"""Damage never becomes whole, and what is sound is never cut: index, shard and manifest each stale in turn."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays
from neurofm_shards.cli.main import run
from neurofm_shards.errors import FormatError, NeurofmShardsError
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.maintenance.validate import validate_dataset

N = 12


def make(folder, seed=3, compression="none", **options):
    values = np.random.default_rng(seed).standard_normal((N, 700))
    create_shards_from_arrays(folder, {"x": values}, 6, {"subject_id": "M1"}, compression=compression, **options)
    return sorted(folder.glob("shard_*"))


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def visible(folder):
    return {name: data for name, data in tree(folder).items() if not name.startswith(".neurofm")}


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 16
    path.write_bytes(raw)


def keys(path):
    with tarfile.open(path) as tar:
        return [name.partition(".")[0] for name in tar.getnames() if name.endswith("metadata.json")]


@pytest.mark.parametrize("command", ["drop", "merge"])
@pytest.mark.parametrize("index", ["kept", "gone"])
def test_damage_is_not_rewritten_into_something_whole(tmp_path, capsys, command, index):
    shards = make(tmp_path / "data")
    flip(shards[0], 3 * shards[0].stat().st_size // 6 + 1500)  # in the third sample's array
    if index == "gone":
        shutil.rmtree(tmp_path / "data/.neurofm")
    make(tmp_path / "other", sample_ids=[f"o{i}" for i in range(N)])
    before = tree(tmp_path / "data")
    words = {
        "drop": ["drop", str(tmp_path / "data"), "--where", "sample_idx_in_shard == 0"],
        "merge": ["merge", "-i", str(tmp_path / "data"), str(tmp_path / "other"), "-o", str(tmp_path / "joined")],
    }[command]
    assert run(words) == 1
    said = capsys.readouterr().err
    assert shards[0].name in said
    assert {n: d for n, d in tree(tmp_path / "data").items() if n in before} == before
    assert not [name for name in tree(tmp_path / "data") if "staging" in name]
    assert not (tmp_path / "joined/dataset_metadata.json").exists()
    assert not validate_dataset(tmp_path / "data").ok


def test_without_an_index_the_manifest_decides(tmp_path):
    shards = make(tmp_path)
    flip(shards[0], 3 * shards[0].stat().st_size // 6 + 1500)
    shutil.rmtree(tmp_path / ".neurofm")
    manifest = (tmp_path / "dataset_metadata.json").read_bytes()
    before = shards[0].read_bytes()
    report = repair(tmp_path)
    assert not report.ok
    assert any(finding.where == shards[0].name and "checksum" in finding.what for finding in report.findings)
    assert (tmp_path / "dataset_metadata.json").read_bytes() == manifest
    assert shards[0].read_bytes() == before
    assert not validate_dataset(tmp_path).ok


@pytest.mark.parametrize("compression", ["none", "gz"])
def test_a_stale_index_does_not_decide_over_a_shard_that_the_manifest_vouches_for(tmp_path, compression):
    make(tmp_path / "old", seed=1, compression=compression)
    shards = make(tmp_path / "new", seed=1, compression=compression)
    corrected = np.random.default_rng(1).standard_normal((N, 700))
    corrected[2] += 1
    create_shards_from_arrays(tmp_path / "new2", {"x": corrected}, 6, {"subject_id": "M1"}, compression=compression)
    for path in (tmp_path / "new2").iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path / "old" / path.name)
    before = visible(tmp_path / "old")
    report = repair(tmp_path / "old")
    assert report.ok, report
    assert visible(tmp_path / "old") == before
    assert validate_dataset(tmp_path / "old").ok
    assert len(shards) == 2


def member(tar, name, data=b"", **said):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in said.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def foreign(path, odd):
    """An archive with an oddity in its middle, as another program might have made it."""
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3.0))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i in range(3):
            member(tar, f"k{i}.x.npy", buffer.getvalue())
        odd(tar)
        for i in range(3, 6):
            member(tar, f"k{i}.x.npy", buffer.getvalue())


ODDITIES = {
    "link": lambda tar: member(tar, "k9.x.npy", type=tarfile.SYMTYPE, linkname="k0.x.npy"),
    "hard link": lambda tar: member(tar, "k9.x.npy", type=tarfile.LNKTYPE, linkname="k0.x.npy"),
    "pipe": lambda tar: member(tar, "k9.x.npy", type=tarfile.FIFOTYPE),
    "device": lambda tar: member(tar, "k9.x.npy", type=tarfile.CHRTYPE),
    "key comes again": lambda tar: member(tar, "k0.y.npy", b"1"),
    "member comes again": lambda tar: member(tar, "k2.x.npy", b"1"),
    "parent folder": lambda tar: member(tar, "../k9.x.npy", b"1"),
    "absolute": lambda tar: member(tar, "/k9.x.npy", b"1"),
}


@pytest.mark.parametrize("odd", [*ODDITIES, "second archive"])
def test_what_is_sound_but_not_supported_is_refused_and_left_as_it_is(tmp_path, odd):
    path = tmp_path / "shard_000000.tar"
    foreign(path, ODDITIES.get(odd, tarfile.TarFile.getnames))
    if odd == "second archive":
        path.write_bytes(path.read_bytes() * 2)
    before = tree(tmp_path)
    with pytest.raises(NeurofmShardsError, match=r"shard_000000\.tar"):
        repair(tmp_path)
    assert tree(tmp_path) == before


def test_what_is_replaced_is_kept_where_no_reader_finds_it_and_the_report_says_so(tmp_path, capsys):
    shards = make(tmp_path)
    flip(shards[0], 3 * shards[0].stat().st_size // 6 + 1500)
    damaged = shards[0].read_bytes()
    assert run(["repair", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    kept = list((tmp_path / ".neurofm/replaced").iterdir())
    assert [path.read_bytes() for path in kept] == [damaged]
    assert ".neurofm/replaced" in said
    assert not [path for path in tmp_path.rglob("*.tar") if path not in shards]
    assert len(keys(shards[0])) == 5
    assert validate_dataset(tmp_path).ok
    assert run(["drop", str(tmp_path), "--where", "sample_idx_in_shard == 0"]) == 0
    assert not (tmp_path / ".neurofm/replaced").exists()


def test_originals_need_not_be_kept(tmp_path, capsys):
    shards = make(tmp_path)
    flip(shards[0], 3 * shards[0].stat().st_size // 6 + 1500)
    assert run(["repair", str(tmp_path), "--no-keep-originals"]) == 1
    assert not (tmp_path / ".neurofm/replaced").exists()
    assert len(keys(shards[0])) == 5


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("name", ["dataset_metadata.json", "shard_000000.tar"])
def test_a_read_that_fails_is_an_error_and_no_damage(tmp_path, monkeypatch, code, name):
    make(tmp_path)
    before = tree(tmp_path)
    real = os.open
    failed = []

    def failing(path, *args, **options):
        if os.fspath(path).endswith(name) and not failed:
            failed.append(path)
            raise OSError(code, os.strerror(code), path)
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        with pytest.raises(OSError, match=name):
            repair(tmp_path)
    assert failed
    assert tree(tmp_path) == before


def test_a_manifest_that_does_not_parse_is_damage(tmp_path):
    make(tmp_path)
    (tmp_path / "dataset_metadata.json").write_bytes(b'{"shards": [')
    assert repair(tmp_path).ok
    assert validate_dataset(tmp_path).ok


def test_automatic_numbers_go_on_from_the_largest_that_is_there(tmp_path):
    make(tmp_path)
    assert run(["drop", str(tmp_path), "--where", "sample_idx_in_shard < 3"]) == 0
    (tmp_path / "dataset_metadata.json").unlink()
    assert repair(tmp_path).ok
    with pytest.warns(UserWarning, match="already holds"):
        create_shards_from_arrays(tmp_path, {"x": np.zeros((8, 700))})
    found = [key for shard in sorted(tmp_path.glob("shard_*")) for key in keys(shard)]
    assert len(found) == len(set(found)) == 14
    assert found[-8:] == [f"sample_{i:09d}" for i in range(13, 21)]


def test_a_shard_that_cannot_be_told_is_listed_on(tmp_path):
    """Every sample differs from what the index says: it is another shard, not a damaged one."""
    shards = make(tmp_path / "data", seed=1)
    other = make(tmp_path / "other", seed=2)
    shutil.copy(other[0], shards[0])
    manifest = (tmp_path / "data/dataset_metadata.json").read_bytes()
    report = repair(tmp_path / "data")
    assert not report.ok
    assert shards[0].read_bytes() == other[0].read_bytes()
    assert (tmp_path / "data/dataset_metadata.json").read_bytes() == manifest


def test_truncated_sidecars_and_shards_end_no_process(tmp_path):
    """A reader of plain reads and a repair never map what may shrink under them."""
    from neurofm_shards.format import sidecar

    assert not hasattr(sidecar, "mmap")


def test_what_is_repaired_is_all_that_was_whole(tmp_path):
    shards = make(tmp_path)
    os.truncate(shards[1], shards[1].stat().st_size * 3 // 5)
    report = repair(tmp_path)
    lost = [finding.key for finding in report.findings if finding.severity == "error"]
    assert lost == ["sample_000000010 to sample_000000012"]
    assert json.loads((tmp_path / "dataset_metadata.json").read_text())["total_samples"] == 9
    assert FormatError
