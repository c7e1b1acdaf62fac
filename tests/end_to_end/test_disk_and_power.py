"""A full disk and a power loss cost time, never data."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import OutputExistsError

CONFIG = {"shard_size": 4, "durable": True}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KB, where this machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_said_and_the_rest_goes_on_when_there_is_room(toys, tmp_path, tree, small_disk, workers):
    paths = toys(a={"n": 400})
    convert_inputs(paths, tmp_path / "whole", CONFIG)
    with pytest.raises(OSError, match="No space left") as caught:
        convert_inputs(paths, small_disk / "out", CONFIG, workers=workers)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OutputExistsError, match="unfinished conversion"):
        convert_inputs(paths, small_disk / "out", CONFIG)
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    convert_inputs(paths, small_disk / "out", CONFIG, mode="resume")
    assert tree(small_disk / "out") == tree(tmp_path / "whole")


class Disk:
    """What would survive a power loss: names as their folders were last synced, contents as the files were."""

    def __init__(self, root, monkeypatch):
        self.root = Path(root)
        self.contents = {}
        self.names = {}
        self.syncs = 0
        self.cut_at = None
        fsync = os.fsync

        def recording(fd):
            fsync(fd)
            self._synced(Path(f"/proc/self/fd/{fd}").readlink(), os.fstat(fd).st_ino)

        monkeypatch.setattr(os, "fsync", recording)

    def _synced(self, path, inode):
        if path.is_dir():
            self.names[inode] = {item.name: (item.is_dir(), item.stat().st_ino) for item in path.iterdir()}
        else:
            self.contents[inode] = path.read_bytes()
        self.syncs += 1
        if self.syncs == self.cut_at:
            raise PowerLossError

    def survivors(self, target):
        """Write what a restart would find; folders are durable from the moment they are made."""
        self._restore(self.root, Path(target))

    def _restore(self, folder, target):
        target.mkdir()
        entries = self.names.get(folder.stat().st_ino, {})
        for name, (is_folder, inode) in entries.items():
            if not is_folder:
                (target / name).write_bytes(self.contents.get(inode, b""))
        for item in folder.iterdir():
            if item.is_dir():
                self._restore(item, target / item.name)


class PowerLossError(BaseException):
    pass


def test_whatever_was_synced_is_enough_to_go_on(toys, tmp_path, tree, monkeypatch):
    paths = toys(a={"n": 14}, b={"n": 9})
    convert_inputs(paths, tmp_path / "whole", CONFIG)
    cuts = 0
    for cut_at in range(1, 200, 3):
        out, restarted = tmp_path / "out", tmp_path / "restarted"
        with monkeypatch.context() as patch:
            out.mkdir()
            disk = Disk(out, patch)
            disk.cut_at = cut_at
            try:
                convert_inputs(paths, out, CONFIG)
                finished = True
            except PowerLossError:
                finished = False
        disk.survivors(restarted)
        convert_inputs(paths, restarted, CONFIG, mode="resume")
        assert tree(restarted) == tree(tmp_path / "whole"), f"power lost at sync {cut_at}"
        for folder in (out, restarted):
            shutil.rmtree(folder)
        cuts += not finished
        if finished:
            break
    assert cuts > 10
