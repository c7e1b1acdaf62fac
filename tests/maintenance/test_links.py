"""Nothing outside of the folder is touched, whatever lies in its hidden folder."""

from __future__ import annotations

import contextlib
import json
import os
import warnings

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter, create_shards_from_arrays
from neurofm_shards.cli.main import run
from neurofm_shards.errors import NeurofmShardsError

SECRET = b"ssh-ed25519 AAAA not yours\n"


@pytest.fixture
def outside(tmp_path):
    """A folder with files that nobody may change."""
    folder = tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    for name in ("authorized_keys", "inner/notes.txt", "shard_000000.tar", "lock", "journal"):
        (folder / name).write_bytes(SECRET)
    return folder


@pytest.fixture
def data(tmp_path):
    """A data set of ours, and an input to convert."""
    folder = tmp_path / "data"
    create_shards_from_arrays(folder, {"x": np.arange(40.0).reshape(20, 2)}, 5, {"subject_id": "M1"})
    np.savez(tmp_path / "in.npz", x=np.zeros((4, 3)))
    return folder


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def writer(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with WebDatasetWriter(folder, **options) as made:
            made.write_sample({"x": np.zeros(2)})


def arrays(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        create_shards_from_arrays(folder, {"x": np.zeros((3, 2))}, overwrite=True)


COMMANDS = {
    "repair": lambda data: run(["repair", str(data)]),
    "drop": lambda data: run(["drop", str(data), "--where", "sample_idx_in_shard == 1"]),
    "drop --dry-run": lambda data: run(["drop", str(data), "--where", "sample_idx_in_shard == 1", "--dry-run"]),
    "convert": lambda data: run(["convert", "-i", str(data.parent / "in.npz"), "-o", str(data)]),
    "convert --overwrite": lambda data: run(
        ["convert", "-i", str(data.parent / "in.npz"), "-o", str(data), "--overwrite"]
    ),
    "convert --append": lambda data: run(["convert", "-i", str(data.parent / "in.npz"), "-o", str(data), "--append"]),
    "convert --resume": lambda data: run(["convert", "-i", str(data.parent / "in.npz"), "-o", str(data), "--resume"]),
    "merge": lambda data: run(
        ["merge", "-i", str(data), str(data.parent / "other"), "-o", str(data.parent / "joined")]
    ),
    "merge onto": lambda data: run(
        ["merge", "-i", *(str(data.parent / name) for name in ("other", "other2")), "-o", str(data), "--overwrite"]
    ),
    "index": lambda data: run(["index", str(data)]),
    "writer": writer,
    "writer, overwrite": lambda data: writer(data, overwrite=True),
    "arrays, overwrite": arrays,
}


def link(name):
    return lambda data, outside: (data / ".neurofm" / name).symlink_to(outside / "authorized_keys")


def link_to_folder(name):
    return lambda data, outside: (data / ".neurofm" / name).symlink_to(outside)


def hidden_folder(data, outside):
    (data / ".neurofm").rename(data / "aside")
    (data / ".neurofm").symlink_to(outside)


def committed(inside, lead):
    def make(data, outside):
        folder = data / ".neurofm/commit-0"
        folder.mkdir()
        (folder / "removed.json").write_text("[]")
        (data / "lead").symlink_to(outside)
        (folder / inside).mkdir(parents=True, exist_ok=True)
        (folder / inside / lead).write_bytes(b"mine\n")

    return make


def commit_removes(data, outside):
    (data / "thesis.txt").write_bytes(SECRET)
    folder = data / ".neurofm/commit-0"
    folder.mkdir()
    (folder / "removed.json").write_text(json.dumps(["thesis.txt", "../outside/authorized_keys"]))


def pending_deletions(data, outside):
    (data / "thesis.txt").write_bytes(SECRET)
    (data / ".neurofm/doomed").write_text(json.dumps(["thesis.txt", "../outside/authorized_keys"]))


def committed_link(data, outside):
    folder = data / ".neurofm/commit-0"
    folder.mkdir()
    (folder / "removed.json").write_text("[]")
    (folder / "out").symlink_to(outside)


def tables(data, outside):
    (data / ".neurofm/tables").symlink_to(outside)


def hard_link(name):
    return lambda data, outside: os.link(outside / "authorized_keys", data / ".neurofm" / name)


TRAPS = {
    "lock": link("lock"),
    "lock, dangling": lambda data, outside: (data / ".neurofm/lock").symlink_to(outside / "new"),
    "lock, hard link": hard_link("lock"),
    "journal": link("journal"),
    "journal, hard link": hard_link("journal"),
    "unfinished": link("unfinished"),
    "doomed": link("doomed"),
    "staging": link_to_folder("staging-0"),
    "replacement": link_to_folder("replacement"),
    "replaced": link_to_folder("replaced"),
    "commit": link_to_folder("commit-0"),
    "commit-0/out": committed_link,
    "commit-0/lead": committed("lead", "authorized_keys"),
    "commit-0/file": committed(".", "notes.txt"),
    "commit removes": commit_removes,
    "doomed names": pending_deletions,
    "tables": tables,
    ".neurofm": hidden_folder,
}


@pytest.mark.plugins
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("trap", TRAPS)
def test_no_command_follows_a_link_out_of_the_folder(data, outside, capsys, trap, command):
    for name in ("other", "other2"):
        create_shards_from_arrays(data.parent / name, {"x": np.zeros((3, 2))}, sample_ids=[f"{name}{i}" for i in "abc"])
    TRAPS[trap](data, outside)
    before = tree(outside)
    with contextlib.suppress(NeurofmShardsError):
        COMMANDS[command](data)
    assert tree(outside) == before
    assert sorted(path.name for path in outside.iterdir()) == sorted(
        ["authorized_keys", "inner", "shard_000000.tar", "lock", "journal"]
    )
    if trap in ("commit removes", "doomed names"):
        assert (data / "thesis.txt").read_bytes() == SECRET


@pytest.mark.parametrize("trap", ["lock", "journal", "staging", "commit-0/out", "tables", ".neurofm"])
def test_links_are_refused_by_name(data, outside, capsys, trap):
    TRAPS[trap](data, outside)
    assert run(["repair", str(data)]) == 1
    said = capsys.readouterr().err
    assert ".neurofm" in said
    assert "link" in said


def test_a_folder_of_linked_shards_is_still_read(data, tmp_path):
    from neurofm_shards.reading.collection import ShardCollection

    view = tmp_path / "view"
    view.mkdir()
    for path in data.iterdir():
        if path.name != ".neurofm":
            (view / path.name).symlink_to(path)
    with ShardCollection.open(view) as found:
        np.testing.assert_array_equal(found.gather(np.arange(20))["x"], np.arange(40.0).reshape(20, 2))


def test_a_dry_run_changes_nothing(data, capsys):
    (data / ".neurofm/staging-0").mkdir()
    (data / ".neurofm/staging-0/left").write_bytes(b"by a dead run")
    (data / ".shard_000009.tar.1-0.partial").write_bytes(b"half")
    before = tree(data)
    assert run(["drop", str(data), "--where", "sample_idx_in_shard == 1", "--dry-run"]) == 0
    assert tree(data) == before


@pytest.mark.plugins
def test_a_refused_conversion_changes_nothing(data, capsys):
    (data / ".neurofm/staging-0").mkdir()
    (data / ".neurofm/staging-0/somebody's").write_bytes(b"who is writing now, where locks do not exclude")
    before = tree(data)
    assert run(["convert", "-i", str(data.parent / "in.npz"), "-o", str(data)]) == 2
    assert tree(data) == before
