"""One writer at a time, also where the file system has no locks, or pretends to have them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter, create_shards_from_arrays
from neurofm_shards.cli.main import run
from neurofm_shards.errors import OutputLockedError
from neurofm_shards.writing.lock import OutputLock

MISSING = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def no_flock(monkeypatch, request):
    code = getattr(request, "param", errno.ENOSYS)

    def missing(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", missing)


@pytest.mark.parametrize("no_flock", MISSING, indirect=True)
def test_a_file_stands_in_for_a_lock_that_is_not_to_be_had(tmp_path, no_flock):
    with pytest.warns(UserWarning, match="has no locks") as said:
        create_shards_from_arrays(tmp_path / "out", {"x": np.zeros((3, 2))})
    assert len(said) == 1
    assert not (tmp_path / "out/.neurofm/lock").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with WebDatasetWriter(tmp_path / "two") as writer:
            writer.write_sample({"x": 1})
            with pytest.raises(OutputLockedError, match="another writer of this program"):
                WebDatasetWriter(tmp_path / "two")
    assert not (tmp_path / "two/.neurofm/lock").exists()


@pytest.mark.plugins
def test_a_conversion_works_without_locks_of_the_system(tmp_path, no_flock, capsys):
    np.savez(tmp_path / "in.npz", x=np.zeros((4, 3)))
    with pytest.warns(UserWarning, match="has no locks"):
        assert run(["convert", "-i", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out")]) == 0
    assert run(["validate", str(tmp_path / "out")]) == 0


def write_lock(folder, **said):
    (folder / ".neurofm").mkdir(parents=True, exist_ok=True)
    with OutputLock(folder):
        here = json.loads((folder / ".neurofm/lock").read_bytes())
    (folder / ".neurofm").mkdir(exist_ok=True)
    (folder / ".neurofm/lock").write_text(json.dumps({**here, **said}))


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_over(tmp_path, no_flock, recwarn):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_lock(tmp_path, pid=dead.pid, started="1", stand_in=True)
    with OutputLock(tmp_path):
        assert json.loads((tmp_path / ".neurofm/lock").read_bytes())["pid"] == os.getpid()
    assert not (tmp_path / ".neurofm").exists()


def test_the_lock_of_a_process_whose_number_is_another_ones_now_is_taken_over(tmp_path, no_flock, recwarn):
    write_lock(tmp_path, pid=os.getpid(), started="1", stand_in=True)
    with OutputLock(tmp_path):
        pass


@pytest.mark.parametrize("flock", ["missing", "there"])
def test_the_lock_of_another_machine_is_never_taken_over(tmp_path, monkeypatch, recwarn, flock):
    if flock == "missing":
        monkeypatch.setattr(fcntl, "flock", _raises)
    write_lock(tmp_path, pid=1, host="cluster-17 some-boot", stand_in=True)
    before = tree(tmp_path)
    with pytest.raises(OutputLockedError, match=r"process 1 of another machine \(cluster-17\).*remove .*lock"):
        OutputLock(tmp_path).acquire()
    assert tree(tmp_path) == before


def _raises(descriptor, operation):
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_a_lock_that_does_not_exclude_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", print)  # which says that all is well
    with WebDatasetWriter(tmp_path) as writer:
        writer.write_sample({"x": 1})
        before = tree(tmp_path)
        with pytest.raises(OutputLockedError):
            WebDatasetWriter(tmp_path, overwrite=True)
        code = (
            "import fcntl, sys; fcntl.flock = lambda *a: None\n"
            "from neurofm_shards.writing.lock import OutputLock; from pathlib import Path\n"
            "OutputLock(Path(sys.argv[1])).acquire()"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
        assert f"another process ({os.getpid()})" in done.stderr
        assert tree(tmp_path) == before


def test_a_heartbeat_says_that_the_holder_lives(tmp_path, no_flock, monkeypatch, recwarn):
    from neurofm_shards.writing import lock

    monkeypatch.setattr(lock, "_HEARTBEAT_S", 0.01)
    with OutputLock(tmp_path):
        path = tmp_path / ".neurofm/lock"
        os.utime(path, (0, 0))
        for _ in range(60_000):
            if path.stat().st_mtime > 1:
                break
            time.sleep(0.001)
        assert path.stat().st_mtime > 1


def test_the_lock_leaves_nothing(tmp_path):
    with OutputLock(tmp_path / "out"):
        assert (tmp_path / "out/.neurofm/lock").exists()
        assert os.uname().nodename in (tmp_path / "out/.neurofm/lock").read_text()
    assert not (tmp_path / "out").exists()
