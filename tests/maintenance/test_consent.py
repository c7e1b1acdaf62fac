"""What was withdrawn is gone: from shards, sidecars, manifest, side tables, leftovers and the user's cache."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter, create_shards_from_arrays
from neurofm_shards.cli.main import run
from neurofm_shards.reading.collection import ShardCollection

SUBJECT = "subject-Zaphod"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(folder, **options):
    subjects = np.array(["subject-Ford"] * 9 + [SUBJECT] * 3)
    data = {"x": np.random.default_rng(0).standard_normal((12, 5))}
    metadata = [{"subject_id": str(s), "session_id": f"ses-{s}"} for s in subjects]
    create_shards_from_arrays(folder, data, 4, metadata, **options)
    return folder


def mentions(*folders):
    """Every file, and name, in which the subject is found."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    return [
        str(path)
        for path in paths
        if SUBJECT in path.name or (path.is_file() and SUBJECT.encode() in path.read_bytes())
    ]


def drop(folder):
    return run(["drop", str(folder), "--where", f'subject_id == "{SUBJECT}"'])


def edit(folder, **values):
    path = folder / "dataset_metadata.json"
    path.write_bytes(json.dumps({**json.loads(path.read_bytes()), **values}).encode())


def test_failures_that_name_the_subject_go_and_the_others_are_named(tmp_path, cache, capsys):
    folder = make(tmp_path / "data")
    failures = [
        {"files": [f"sub-{SUBJECT}_ses-9.nwb"], "format": "nwb", "error": "broken", "rows": None},
        {"files": ["sub-Ford_ses-9.nwb"], "format": "nwb", "error": "broken", "rows": None},
    ]
    edit(folder, failures=failures)
    assert drop(folder) == 0
    assert mentions(folder) == []
    left = json.loads((folder / "dataset_metadata.json").read_bytes())["failures"]
    assert [entry["files"] for entry in left] == [["sub-Ford_ses-9.nwb"]]
    assert "sub-Ford_ses-9.nwb" in capsys.readouterr().out


def test_sources_without_a_sample_go_when_they_are_the_subjects(tmp_path, cache):
    folder = make(tmp_path / "data")
    sources = [
        {"files": ["a.nwb"], "session_id": "ses-subject-Ford", "fingerprint": "1", "facts": {}, "tables": {}},
        {"files": ["b.nwb"], "session_id": f"ses-{SUBJECT}", "fingerprint": "2", "facts": {}, "tables": {}},
        {"files": ["c.nwb"], "session_id": "empty", "fingerprint": "3", "facts": {"subject_id": SUBJECT}, "tables": {}},
        {"files": ["d.nwb"], "session_id": "empty2", "fingerprint": "4", "facts": {}, "tables": {}},
    ]
    edit(folder, sources=sources)
    assert drop(folder) == 0
    assert mentions(folder) == []
    left = json.loads((folder / "dataset_metadata.json").read_bytes())["sources"]
    assert [entry["files"] for entry in left] == [["a.nwb"], ["d.nwb"]]


def test_indexes_in_the_users_cache_go(tmp_path, cache):
    folder = make(tmp_path / "data")
    shutil.rmtree(folder / ".neurofm")
    folder.chmod(0o555)
    (folder / ".neurofm").mkdir() if os.access(folder, os.W_OK) else None  # root may write anywhere
    hidden = folder / ".neurofm"
    if hidden.exists():
        hidden.rmdir()
        hidden.write_bytes(b"")  # no sidecar fits here
    with ShardCollection.open(folder) as data:
        data.metadata_table()
    assert mentions(cache)
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.rglob("*") if path.is_dir()} == {0o700}
    folder.chmod(0o755)
    if hidden.exists():
        hidden.unlink()
    assert drop(folder) == 0
    assert mentions(folder, cache) == []


def test_rows_of_side_tables_beyond_the_manifest_go(tmp_path, cache):
    folder = make(tmp_path / "data")
    (folder / ".neurofm/tables").mkdir()
    rows = [{"unit": "subject-Ford/1"}, {"unit": f"{SUBJECT}/1"}]
    (folder / ".neurofm/tables/units.json").write_text(json.dumps(rows))
    edit(folder, tables={"units": {"file": ".neurofm/tables/units.json", "rows": 1}})
    assert drop(folder) == 0
    assert mentions(folder) == []


@pytest.mark.parametrize("moment", ["after the shard", "before the shard"])
def test_shards_of_a_writer_that_was_killed_while_adding_go(tmp_path, cache, moment):
    folder = make(tmp_path / "data")
    call = "publish" if moment == "before the shard" else "none"
    code = (
        "import os, sys, warnings, numpy as np; warnings.simplefilter('ignore')\n"
        "from neurofm_shards import WebDatasetWriter\n"
        "from neurofm_shards.writing import shard_writer\n"
        "w = WebDatasetWriter(sys.argv[1], shard_size=2)\n"
        f"w.write_sample({{'x': np.zeros(5)}}, metadata={{'subject_id': {SUBJECT!r}, 'session_id': 's'}})\n"
        "real = os.replace\n"
        "def dies(source, target, **k):\n"
        "    if str(target).endswith('.tar') and sys.argv[2] == 'publish': os._exit(9)\n"
        "    real(source, target, **k)\n"
        "os.replace = dies\n"
        f"w.write_sample({{'x': np.zeros(5)}}, metadata={{'subject_id': {SUBJECT!r}, 'session_id': 's'}})\n"
        "os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder, call], check=False)
    assert done.returncode == 9
    assert drop(folder) == 0
    assert mentions(folder) == []


def test_shards_of_an_append_that_was_killed_before_its_record_go(toys, tmp_path, cache, monkeypatch):
    from neurofm_shards.convert.session import convert_inputs
    from neurofm_shards.writing.journal import Journal

    first, second = toys(a={"n": 6}, b={"n": 6, "session": SUBJECT})
    folder = tmp_path / "out"
    convert_inputs([first], folder, {"shard_size": 4})

    class Killed(BaseException):
        pass

    def dies(self, line):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record", dies)
        with pytest.raises(Killed):
            convert_inputs([second], folder, {"shard_size": 4}, mode="append")
    assert mentions(folder)
    assert run(["repair", str(folder)]) == 0
    assert mentions(folder) == []
    assert sorted(path.name for path in folder.glob("*.tar")) == ["shard_000000.tar", "shard_000001.tar"]


def test_partial_files_and_orphaned_sidecars_go(tmp_path, cache):
    folder = make(tmp_path / "data")
    (folder / ".shard_000007.tar.1-0.partial").write_bytes(SUBJECT.encode())
    (folder / ".neurofm/shard_000007.tar.meta").write_bytes(SUBJECT.encode())
    assert drop(folder) == 0
    assert mentions(folder) == []


@pytest.mark.parametrize("command", ["drop", "repair", "merge", "append", "index"])
def test_permissions_are_kept(tmp_path, cache, command):
    folder = make(tmp_path / "data")
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
    if command == "drop":
        assert drop(folder) == 0
    elif command == "repair":
        shard = folder / "shard_000001.tar"
        raw = bytearray(shard.read_bytes())
        raw[600] ^= 1
        shard.write_bytes(raw)
        assert run(["repair", str(folder)]) == 1
    elif command == "index":
        shutil.rmtree(folder / ".neurofm")
        assert run(["index", str(folder)]) == 0
    elif command == "append":
        with pytest.warns(UserWarning, match="already holds"), WebDatasetWriter(folder) as writer:
            writer.write_sample({"x": np.zeros(5)}, metadata={"subject_id": "a", "session_id": "b"})
    else:
        make(tmp_path / "other", sample_ids=[f"o{i}" for i in range(12)])
        assert run(["merge", "-i", str(folder), str(tmp_path / "other"), "-o", str(tmp_path / "joined")]) == 0
        folder = tmp_path / "joined"
    modes = {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*") if p.is_file()}
    assert set(modes.values()) == {0o600}, modes
