"""Faults of disks, memory, inputs and neighbours cost time, never data, and are said in one line."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import ShardedDatasetInfo, WebDatasetWriter, create_shards_from_arrays
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import (
    ConfigError,
    FormatError,
    NothingToConvertError,
    OutputExistsError,
    OutputLockedError,
    SourceError,
)
from neurofm_shards.maintenance.drop import drop_samples
from neurofm_shards.maintenance.merge import merge
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.reading.collection import ShardCollection

TOY_PLUGIN = Path(__file__).parents[1] / "plugins" / "toy_plugin.py"
CONFIG = {"shard_size": 4, "durable": False}


class Killed(BaseException):
    """Stands for the end of the process at this very line."""


def command(inputs, out, *options, shell_first="true"):
    words = [sys.executable, "-m", "neurofm_shards", "convert", "-i", *inputs, "-o", str(out), "--shard-size", "4"]
    words += ["--plugin", str(TOY_PLUGIN), *options]
    return ["sh", "-c", f'{shell_first} && exec "$@"', "sh", *words]


def run(inputs, out, *options, **facts):
    return subprocess.run(command(inputs, out, *options, **facts), capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path):
    """Mount file systems of a given size, where this machine lets us."""
    mounted = []

    def make(name, options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot mount a small tmpfs here: {done.stderr.decode().strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def refused(folder):
    for reader in (ShardCollection.open, lambda path: ShardedDatasetInfo(path).get_summary()):
        with pytest.raises(FormatError, match="unfinished"):
            reader(folder)
    assert not validate_dataset(folder).ok


def test_a_disk_may_be_full_at_any_moment(toys, tmp_path, tree, disk):
    paths = toys(a={"n": 60})
    convert_inputs(paths, tmp_path / "whole", CONFIG)
    needed = sum(len(data) for data in tree(tmp_path / "whole").values())
    full = 0
    for share in (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1):
        folder = disk(f"disk{share}", f"size={max(int(needed * share) // 4096, 1) * 4}k")
        with contextlib.suppress(OSError):
            convert_inputs(paths, folder / "out", CONFIG)
        full += not (folder / "out/dataset_metadata.json").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", folder], check=True)
        convert_inputs(paths, folder / "out", CONFIG, mode="resume")
        assert tree(folder / "out") == tree(tmp_path / "whole"), f"full at {share} of what is needed"
    assert full >= 6


@pytest.mark.filterwarnings("ignore:samples differ in their fields")
@pytest.mark.filterwarnings("ignore:.*new samples are added")
def test_a_full_disk_leaves_the_data_set_that_is_changed(toys, tmp_path, tree, disk):
    paths = toys(a={"n": 20}, b={"n": 40})
    convert_inputs(paths[:1], tmp_path / "small", CONFIG)
    folder = disk("disk", "size=20m")
    shutil.copytree(tmp_path / "small", folder / "out")
    before = tree(folder / "out")
    subprocess.run(["mount", "-o", "remount,size=160k", folder], check=True)
    for change in (
        lambda: convert_inputs(paths[1:], folder / "out", mode="append"),
        lambda: drop_samples(folder / "out", "row % 4 == 1"),
        lambda: create_shards_from_arrays(folder / "out", {"x": np.zeros((90, 500))}, 4),
    ):
        with pytest.raises(OSError, match="No space left"):
            change()
        after = tree(folder / "out")
        assert {name: after.get(name) for name in before} == before
        assert ShardCollection.open(folder / "out", verify=True).gather(np.arange(20))["x"].shape == (20, 5, 3)
        repair(folder / "out")
        assert tree(folder / "out") == before


def test_a_full_disk_is_one_line_with_the_way_on(toys, disk):
    done = run(toys(a={"n": 400}), disk("disk", "size=200k") / "out")
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


def test_a_folder_that_cannot_be_written_is_one_line(toys, disk):
    folder = disk("disk", "size=200k")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    done = run(toys(a={"n": 4}), folder / "out")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_that_runs_out_is_one_line_and_resumable(toys, tmp_path, tree):
    paths = toys(a={"n": 9}, b={"n": 3, "units": 3_000_000})
    done = run(paths, tmp_path / "out", "--no-durable", shell_first="ulimit -v 700000")
    assert done.returncode == 1
    assert "emory" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out/dataset_metadata.json").exists()
    convert_inputs(paths, tmp_path / "out", CONFIG, mode="resume")
    convert_inputs(paths, tmp_path / "whole", CONFIG)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_an_input_that_disappears_is_named(toys, tmp_path, monkeypatch):
    from neurofm_shards.convert import session as api

    paths = toys(a={"n": 5}, b={"n": 5})
    plan = api.plan_conversion

    def losing(*args, **kwargs):
        planned = plan(*args, **kwargs)
        Path(paths[1]).unlink()
        return planned

    monkeypatch.setattr(api, "plan_conversion", losing)
    with pytest.raises(SourceError, match=r"b\.toy"):
        convert_inputs(paths, tmp_path / "out", CONFIG)
    toys(a={"n": 5}, b={"n": 5})
    result = convert_inputs(paths, tmp_path / "skipped", {**CONFIG, "on_error": "skip"})
    assert (result["total_samples"], [entry["files"] for entry in result["failures"]]) == (5, [["b.toy"]])


def test_one_broken_input_of_hundreds_loses_no_other(toys, toy, tmp_path):
    said = {f"s{i:03d}": {"n": 2} for i in range(200)}
    paths = toys(**said)
    Path(paths[77]).write_text("no json")
    config = {**CONFIG, "on_error": "skip"}
    result = convert_inputs(paths, tmp_path / "out", config)
    assert result["total_samples"] == 398
    assert [entry["files"] for entry in result["failures"]] == [["s077.toy"]]
    toys(**said)
    read = []
    original = toy.ToySamples.read
    toy.ToySamples.read = lambda self, *rows: (read.append(self.path), original(self, *rows))[1]
    result = convert_inputs(paths, tmp_path / "out", config, mode="resume")
    assert (result["total_samples"], result["failures"]) == (400, [])
    assert {Path(path).name for path in read} == {"s077.toy"}


def test_of_two_converters_at_once_one_writes_and_one_is_told(toys, tmp_path, tree):
    paths = toys(a={"n": 80, "slow_s": 0.03})
    both = [
        subprocess.Popen(command(paths, tmp_path / "out", "--no-durable"), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    assert any("being written by another process" in error or "already holds" in error for error in errors)
    convert_inputs(paths, tmp_path / "whole", CONFIG)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_python_writers_keep_everybody_else_away(toys, tmp_path):
    writer = WebDatasetWriter(tmp_path / "out", shard_size=2)
    writer.write_sample({"x": 1})
    for other in (
        lambda: WebDatasetWriter(tmp_path / "out"),
        lambda: WebDatasetWriter(tmp_path / "out", overwrite=True),
        lambda: create_shards_from_arrays(tmp_path / "out", {"x": np.zeros(3)}),
        lambda: convert_inputs(toys(a={"n": 3}), tmp_path / "out", mode="overwrite"),
    ):
        with pytest.raises(OutputLockedError, match=r"another writer of this program.*abort"):
            other()
    if os.fork() == 0:
        del writer
        gc.collect()
        os._exit(0)
    os.wait()
    with pytest.raises(OutputLockedError):
        WebDatasetWriter(tmp_path / "out")
    writer.finalize()
    with pytest.warns(UserWarning, match="1 sample: new samples are added"):
        create_shards_from_arrays(tmp_path / "out", {"x": np.zeros(3)})
    assert ShardCollection.open(tmp_path / "out").num_samples == 4
    assert not (tmp_path / "out/.neurofm/lock").exists()


def test_a_writer_that_was_forgotten_locks_nobody_out(tmp_path):
    writer = WebDatasetWriter(tmp_path / "out", shard_size=2)
    writer.write_sample({"x": 1})
    del writer
    gc.collect()
    with WebDatasetWriter(tmp_path / "out", overwrite=True) as other:
        other.write_sample({"x": 2})


KILLED_WRITER = """
import os, signal, sys, warnings
import numpy as np
from neurofm_shards import WebDatasetWriter
warnings.simplefilter("ignore")
writer = WebDatasetWriter(sys.argv[1], shard_size=2)
for i in range(int(sys.argv[2])):
    writer.write_sample({"x": np.full(3, 10 + i)})
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_writer(folder, samples):
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(folder), str(samples)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_writer_left_is_no_data_set_and_is_replaced(tmp_path):
    killed_writer(tmp_path, 7)
    refused(tmp_path)
    with WebDatasetWriter(tmp_path, overwrite=True) as writer:
        writer.write_sample({"x": np.zeros(3)})
    assert ShardCollection.open(tmp_path).num_samples == 1
    assert sorted(path.name for path in tmp_path.iterdir() if "shard" in path.name) == ["shard_000000.tar"]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_killed_addition_of_a_writer_leaves_the_data_set_and_can_be_repeated(tmp_path):
    create_shards_from_arrays(tmp_path, {"x": np.zeros((5, 3))}, 2)
    killed_writer(tmp_path, 7)
    assert ShardCollection.open(tmp_path).num_samples == 5
    with pytest.warns(UserWarning, match="added"):
        create_shards_from_arrays(tmp_path, {"x": np.ones((2, 3))}, 2)
    with ShardCollection.open(tmp_path) as data:
        np.testing.assert_array_equal(data.gather(np.arange(7))["x"][:, 0], [0] * 5 + [1] * 2)
    assert validate_dataset(tmp_path).findings == ()


def killed_at(monkeypatch, function, number):
    """Let the process end at a call that renames or deletes; a folder is then half deleted."""
    calls = []

    def dying(original):
        def call(*args, **kwargs):
            if str(args[0]) == "lock":  # the kernel's, which a dead process gives back
                return original(*args, **kwargs)
            calls.append(args)
            if len(calls) > number:
                raise Killed
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(os, "unlink", dying(os.unlink))
        patch.setattr(os, "rmdir", dying(os.rmdir))
        with contextlib.suppress(Killed):
            function()
            return True
    return False


def test_a_drop_killed_at_any_step_shows_the_old_or_the_new_data_set(toys, tmp_path, tree, monkeypatch):
    convert_inputs(toys(a={"n": 14}), tmp_path / "old", CONFIG)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    drop_samples(tmp_path / "new", "row == 1 or row == 5 or row >= 12", durable=False)
    old, new = ([[m["row"] for m in rows(tmp_path / name)]] for name in ("old", "new"))
    seen = set()
    for number in range(200):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "old", out)
        done = killed_at(
            monkeypatch, partial(drop_samples, out, "row == 1 or row == 5 or row >= 12", durable=False), number
        )
        found = [[m["row"] for m in rows(out)]]
        assert found in (old, new), number
        seen.add(str(found))
        repair(out)
        assert tree(out) in (tree(tmp_path / "old"), tree(tmp_path / "new")), number
        if done:
            break
    assert done
    assert len(seen) == 2


def rows(folder):
    with ShardCollection.open(folder, verify=True) as data:
        data.gather(np.arange(data.num_samples))
        return list(data.metadata(np.arange(data.num_samples)))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_merge_killed_at_any_step_is_never_half_a_data_set(toys, tmp_path, tree, monkeypatch, overwrite):
    paths = toys(a={"n": 6}, b={"n": 7}, c={"n": 9})
    for name, path in zip(("one", "two", "old"), paths, strict=True):
        convert_inputs([path], tmp_path / name, CONFIG)
    parts = [tmp_path / "one", tmp_path / "two"]
    merge(parts, tmp_path / "new", durable=False)
    half = 0
    for number in range(300):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        if overwrite:
            shutil.copytree(tmp_path / "old", out)
        done = killed_at(monkeypatch, partial(merge, parts, out, durable=False, overwrite=overwrite), number)
        if (out / "dataset_metadata.json").exists():
            assert len(rows(out)) in ((9, 13) if overwrite else (13,))
        elif list(out.glob("*.tar")):
            half += 1
            refused(out)
        if list(out.glob(".neurofm/commit-*")):
            repair(out)
            assert tree(out) == tree(tmp_path / "new")
        if done:
            break
    assert done
    assert half > 3


@pytest.mark.parametrize("way_on", ["resume", "overwrite", "repair"])
def test_an_overwriting_killed_at_any_step_shows_the_old_or_the_new_data_set(toys, tmp_path, tree, monkeypatch, way_on):
    paths = toys(a={"n": 14}, b={"n": 7})
    for name, path in zip(("old", "new"), paths, strict=True):
        convert_inputs([path], tmp_path / name, CONFIG)
    old, new = tree(tmp_path / "old"), tree(tmp_path / "new")
    out, seen, half = tmp_path / "out", set(), 0
    overwriting = partial(convert_inputs, paths[1:], out, CONFIG, mode="overwrite")
    for number in range(200):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "old", out)
        done = killed_at(monkeypatch, overwriting, number)
        if (out / "dataset_metadata.json").exists():
            seen.add(len(rows(out)))
        else:
            half += 1
            refused(out)
        left = (".neurofm/replacement/.neurofm/journal", ".neurofm/replacement/*.json", ".neurofm/commit-*")
        is_recorded = any(any(out.glob(pattern)) for pattern in left)
        if way_on == "repair":
            repair(out)
            assert tree(out) in (old, new), number
            overwriting()
        elif way_on == "resume" and is_recorded:
            convert_inputs(paths[1:], out, CONFIG, mode="resume")
        else:
            overwriting()
        assert tree(out) == new, number
        if done:
            break
    assert done
    assert seen == {14, 7}
    assert half > 5


def test_the_old_data_set_can_be_read_while_a_new_one_is_written(toys, tmp_path, tree, monkeypatch):
    paths = toys(a={"n": 14}, b={"n": 9})
    convert_inputs(paths[:1], tmp_path / "out", CONFIG)
    before = rows(tmp_path / "out")
    held = ShardCollection.open(tmp_path / "out", verify=True)
    with monkeypatch.context() as patch:
        patch.setattr("neurofm_shards.convert.commit.commit_manifest", None)
        with pytest.raises(TypeError):
            convert_inputs(paths[1:], tmp_path / "out", CONFIG, mode="overwrite")
    assert rows(tmp_path / "out") == before
    assert validate_dataset(tmp_path / "out").findings == ()
    for change in (
        lambda: drop_samples(tmp_path / "out", "row == 1"),
        lambda: convert_inputs(paths[1:], tmp_path / "out", CONFIG, mode="append"),
    ):
        with pytest.raises(ConfigError, match=r"unfinished replacement.*mode='resume'.*repair"):
            change()
    with pytest.raises(OutputExistsError, match=r"overwriting.*interrupted"):
        WebDatasetWriter(tmp_path / "out")
    with pytest.raises(ConfigError, match="not the conversion that was interrupted"):
        convert_inputs(paths, tmp_path / "out", CONFIG, mode="resume")
    convert_inputs(paths[1:], tmp_path / "out", CONFIG, mode="resume")
    assert len(rows(tmp_path / "out")) == 9
    with contextlib.suppress(FormatError):  # a shard that it had not opened is gone; what it reads is never the new one
        assert list(held.metadata(np.arange(14))) == before
    held.close()


def test_an_overwriting_that_comes_to_nothing_costs_nothing(toys, tmp_path, tree, toy, monkeypatch):
    paths = toys(a={"n": 6}, b={"n": 9})
    convert_inputs(paths[:1], tmp_path / "out", CONFIG)
    before = tree(tmp_path / "out")

    def broken(self, *rows):
        raise SourceError("b.toy: the disk is gone")

    monkeypatch.setattr(toy.ToySamples, "read", broken)
    with pytest.raises(SourceError):
        convert_inputs(paths[1:], tmp_path / "out", CONFIG, mode="overwrite")
    assert {name: data for name, data in tree(tmp_path / "out").items() if "replacement" not in name} == before
    assert "never finished" in repair(tmp_path / "out").findings[0].what
    assert tree(tmp_path / "out") == before
    with pytest.raises(NothingToConvertError):
        convert_inputs(paths[1:], tmp_path / "out", {**CONFIG, "on_error": "skip"}, mode="overwrite")
    assert tree(tmp_path / "out") == before


def test_overwriting_takes_no_file_of_somebody_else(toys, tmp_path, tree):
    paths = toys(a={"n": 2}, b={"n": 9})
    convert_inputs(paths[:1], tmp_path / "out", CONFIG)
    (tmp_path / "out/README.md").write_text("mine")
    (tmp_path / "out/.neurofm/tables/electrodes.json").write_text("[]")  # of the old data set alone
    (tmp_path / "out/shard_000002.tar").write_text("mine, too")
    with pytest.raises(OutputExistsError, match=r"shard_000002\.tar is no part of the data set"):
        convert_inputs(paths[1:], tmp_path / "out", CONFIG, mode="overwrite")
    assert len(rows(tmp_path / "out")) == 2
    (tmp_path / "out/shard_000002.tar").unlink()
    assert convert_inputs(paths[1:], tmp_path / "out", CONFIG, mode="resume")["total_samples"] == 9
    convert_inputs(paths[1:], tmp_path / "new", CONFIG)
    assert tree(tmp_path / "out") == {**tree(tmp_path / "new"), "README.md": b"mine"}


def test_an_addition_can_be_given_up(toys, tmp_path, tree, monkeypatch):
    paths = toys(a={"n": 6}, b={"n": 30})
    convert_inputs(paths[:1], tmp_path / "out", CONFIG)
    before = tree(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("neurofm_shards.convert.commit.commit_manifest", None)
        with pytest.raises(TypeError):
            convert_inputs(paths[1:], tmp_path / "out", mode="append")
    with pytest.raises(ConfigError, match="unfinished append.*repair"):
        drop_samples(tmp_path / "out", "row == 1")
    with pytest.raises(OutputExistsError, match="addition.*interrupted"):
        WebDatasetWriter(tmp_path / "out")
    assert "8 shards" in repair(tmp_path / "out").findings[0].what
    after = tree(tmp_path / "out")
    table = ".neurofm/tables/units.json"  # rows behind those that the manifest counts are nobody's
    assert {**after, table: b""} == {**before, table: b""}


def test_an_addition_whose_journal_outlived_it_stands_in_nobodys_way(toys, tmp_path, monkeypatch):
    paths = toys(a={"n": 6}, b={"n": 5}, c={"n": 4})
    convert_inputs(paths[:1], tmp_path / "out", CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr("neurofm_shards.convert.commit.remove_journal", None)
        with pytest.raises(TypeError):
            convert_inputs(paths[1:2], tmp_path / "out", mode="append")
    assert ShardCollection.open(tmp_path / "out").num_samples == 11
    assert convert_inputs(paths[2:], tmp_path / "out", mode="append")["total_samples"] == 15
    assert drop_samples(tmp_path / "out", "row == 0")["dropped"] == 3


def test_a_repair_waits_for_nobody_and_disturbs_nobody(tmp_path):
    writer = WebDatasetWriter(tmp_path, shard_size=2)
    with pytest.raises(OutputLockedError):
        repair(tmp_path)
    writer.abort()


def test_a_lost_worker_is_said(toys, tmp_path):
    paths = toys(a={"n": 400, "slow_s": 0.05, "kill_at": 12})
    done = run(paths, tmp_path / "out", "-w", "4", "--no-durable")
    assert done.returncode == 1
    assert "a worker process died" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mode", ["new", "append"])
def test_a_run_that_wrote_no_shard_leaves_nothing_to_go_on_with(toys, tmp_path, tree, mode):
    """What was wrong is corrected, and is no longer the conversion that was begun."""
    whole, broken = toys(a={"n": 6}, b={"n": 3, "broken_at": 1})
    if mode == "append":
        convert_inputs([whole], tmp_path / "out", CONFIG)
    before = tree(tmp_path / "out")
    with pytest.raises(SourceError, match="bad chunk"):
        convert_inputs([broken], tmp_path / "out", CONFIG, mode=mode)
    assert tree(tmp_path / "out") == before
    (mended,) = toys(c={"n": 4})
    found = convert_inputs([mended], tmp_path / "out", CONFIG, mode=mode)
    assert found["total_samples"] == (4 if mode == "new" else 10)


def test_what_was_written_before_an_error_is_gone_on_with(toys, tmp_path):
    (broken,) = toys(a={"n": 9, "broken_at": 8})
    with pytest.raises(SourceError, match="bad chunk"):
        convert_inputs([broken], tmp_path / "out", {"shard_size": 4})
    with pytest.raises(OutputExistsError, match=r"2 of 3 shards written\)"):
        convert_inputs([broken], tmp_path / "out", {"shard_size": 4})
