"""Decoded shards on a disk: once for all processes that share it, and never more than the disk has room for."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from neurofm_shards.errors import ConfigError, FormatError
from neurofm_shards.reading import scratch
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.reading.scratch import Scratch
from neurofm_shards.writing.dataset_writer import WebDatasetWriter

N = 48


@pytest.fixture(params=["gz", "bz2"])
def values(tmp_path, request):
    found = np.random.default_rng(0).integers(0, 9, (N, 50_000)).astype("i4")
    with WebDatasetWriter(tmp_path / "d", shard_size=24, compression=request.param) as writer:
        for value in found:
            writer.write_sample({"x": value})
    return found


def open_with(tmp_path, io="mmap"):
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return ShardCollection.open(tmp_path / "d", io=io, cache_bytes=0, cache_dir=tmp_path / "scratch")


def frames_of(data):
    return sum(len(data._space._bounds[shard]) - 1 for shard in range(2))


def open_files(folder):
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(str(entry.readlink()))
    return [link for link in found if link.startswith(str(folder))]


def test_values_are_the_same_and_nothing_is_left_behind(values, tmp_path, io):
    with open_with(tmp_path, io) as data:
        for rows in np.random.default_rng(2).integers(0, N, (30, 4)):
            np.testing.assert_array_equal(data.gather(rows)["x"], values[rows])
        assert not list((tmp_path / "scratch").iterdir())
        assert len(open_files(tmp_path / "scratch")) == 1
        assert data._space.frames.held == 0
    assert not open_files(tmp_path / "scratch")


def test_forked_processes_decode_each_frame_once_together(values, tmp_path, io, monkeypatch):
    log = tmp_path / "log"
    for kind in ("_Frames", "_Whole"):
        count_calls(monkeypatch, f"neurofm_shards.reading.frames_cache.{kind}.decode", log)
    with open_with(tmp_path, io) as data:
        data.gather([0])

        def read(seed):
            rows = np.random.default_rng(seed).permutation(N)
            good = all(np.array_equal(data.gather(part)["x"], values[part]) for part in rows.reshape(-1, 4))
            os._exit(not good)

        children = [multiprocessing.get_context("fork").Process(target=read, args=(seed,)) for seed in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join(300)
        assert [child.exitcode for child in children] == [0, 0, 0]
        np.testing.assert_array_equal(data.gather(np.arange(N))["x"], values)
        assert log.stat().st_size == frames_of(data)


def count_calls(monkeypatch, name, log):
    """Let a method add one byte to a file whenever it is called, in whatever process."""
    module, kind, method = name.rsplit(".", 2)
    owner = getattr(__import__(module, fromlist=[kind]), kind)
    real = getattr(owner, method)

    def counted(self, frame):
        with log.open("ab", buffering=0) as file:
            file.write(b"x")
        real(self, frame)

    monkeypatch.setattr(owner, method, counted)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_error(values, tmp_path, io, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, "no room")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with open_with(tmp_path, io) as data:
        np.testing.assert_array_equal(data.gather(np.arange(N))["x"], values)
        assert data._space.frames.held > 0


def test_a_part_of_the_disk_is_left_free(values, tmp_path, monkeypatch):
    tight = SimpleNamespace(f_bavail=6_000, f_frsize=4096, f_blocks=100_000)  # 24 of 400 MB
    monkeypatch.setattr(os, "fstatvfs", lambda _: tight)
    with open_with(tmp_path) as data:
        np.testing.assert_array_equal(data.gather(np.arange(N))["x"], values)
        assert data._space.frames.held > 0


@pytest.mark.parametrize("name", ["absent", "file"])
def test_a_folder_that_cannot_be_written_to_is_named(values, tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=f"cache_dir='.*{name}'"):
        ShardCollection.open(tmp_path / "d", cache_dir=tmp_path / name)


MOUNTS = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
25 27 0:25 / /my\040disk rw,nosuid shared:1 master:2 - xfs /dev/vdb rw
28 27 0:28 / /big rw - ext4 /dev/vdc rw
29 28 0:29 / /big rw - tmpfs tmpfs rw
"""


def test_the_kind_of_a_file_system_is_that_of_the_last_mount_that_holds_a_folder(monkeypatch):
    monkeypatch.setattr(scratch.Path, "read_text", lambda *_, **__: MOUNTS.strip())
    folders = ["/", "/my disk/a", "/my disks", "/big", "/big/a", "/bigger"]
    assert [scratch.file_system_of(folder) for folder in folders] == ["ext4", "xfs", "ext4", "tmpfs", "tmpfs", "ext4"]


def test_the_kind_of_a_file_system_may_not_be_known(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(scratch.Path, "read_text", absent)
    assert scratch.file_system_of("/") == ""


def test_without_a_temporary_folder_nothing_is_kept(monkeypatch):
    def absent():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(scratch.tempfile, "gettempdir", absent)
    assert scratch.temporary_folder(0) is None


def test_what_failed_is_to_be_done_again(tmp_path):
    scratch = Scratch(str(tmp_path), 1 << 20)

    def fail():
        with scratch.claim(4096) as needed:
            assert needed
            raise FormatError("damaged")

    with pytest.raises(FormatError, match="damaged"):
        fail()
    for expected in (True, False, False):
        with scratch.claim(4096) as needed:
            assert needed is expected
    with scratch.claim(8192) as needed:
        assert needed


def test_a_process_that_is_killed_gives_its_claim_back(tmp_path):
    scratch = Scratch(str(tmp_path), 1 << 20)
    ours, theirs = multiprocessing.Pipe()

    def die():
        with scratch.claim(4096):
            theirs.send(True)
            signal.pause()

    child = multiprocessing.get_context("fork").Process(target=die)
    child.start()
    assert ours.recv()
    with pytest.raises(BlockingIOError):
        fcntl.lockf(scratch.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 4096)
    child.kill()
    with scratch.claim(4096) as needed:
        assert needed
    child.join()


def test_a_lock_is_tried_again_where_the_system_takes_it_for_a_deadlock(tmp_path, monkeypatch):
    scratch, real, calls = Scratch(str(tmp_path), 1 << 20), fcntl.lockf, []

    def refuse_twice(*args):
        calls.append(args)
        if len(calls) < 3:
            raise OSError(errno.EDEADLK, "Resource deadlock avoided")
        real(*args)

    monkeypatch.setattr(fcntl, "lockf", refuse_twice)
    with scratch.claim(4096) as needed:
        assert needed
    assert len(calls) == 4
