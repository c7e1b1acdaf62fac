"""Nothing is lost: interrupted conversions go on and end as if nothing had happened."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import (
    ConfigError,
    InputChangedError,
    NeurofmShardsError,
    OutputExistsError,
    OutputLockedError,
    SourceError,
    WorkerError,
)
from neurofm_shards.maintenance.repair import repair
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.writing.lock import OutputLock

TOY_PLUGIN = Path(__file__).parents[1] / "plugins" / "toy_plugin.py"
CONFIG = {"shard_size": 4}


def command(inputs, output, *options, workers=1):
    flags = ["-o", str(output), "--shard-size", "4", "-w", str(workers), "--plugin", str(TOY_PLUGIN), "--no-durable"]
    return [sys.executable, "-m", "neurofm_shards", "convert", "-i", *inputs, *flags, *options]


def manifest(folder):
    return json.loads((Path(folder) / "dataset_metadata.json").read_text())


def interrupted(paths, output, toy, monkeypatch, after=3):
    """Run a conversion that fails after some shards, as a full disk would make it."""
    from neurofm_shards.convert import shard_run

    finish = shard_run.ShardRun._finish
    done = []

    def failing(self, answers):
        for answer in answers:
            if len(done) == after:
                raise OSError(28, "No space left on device")
            done.append(answer)
            finish(self, [answer])

    with monkeypatch.context() as patch:
        patch.setattr(shard_run.ShardRun, "_finish", failing)
        with pytest.raises(OSError, match="No space"):
            convert_inputs(paths, output, CONFIG)


def test_resume_redoes_only_what_is_missing_and_ends_the_same(toys, toy, tmp_path, tree, monkeypatch):
    paths = toys(a={"n": 30}, b={"n": 7})
    convert_inputs(paths, tmp_path / "whole", CONFIG)
    interrupted(paths, tmp_path / "out", toy, monkeypatch)
    before = {
        name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out") if name.endswith(".tar")
    }
    assert len(before) == 3
    convert_inputs(paths, tmp_path / "out", CONFIG, mode="resume", workers=2, executor="threads")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert before == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before}


def test_an_unfinished_output_is_no_data_set_and_is_not_written_over(toys, toy, tmp_path, monkeypatch):
    paths = toys(a={"n": 30})
    interrupted(paths, tmp_path / "out", toy, monkeypatch)
    with pytest.raises(OutputExistsError, match=r"unfinished conversion \(3 of 8 shards.*mode='resume'"):
        convert_inputs(paths, tmp_path / "out", CONFIG)
    with pytest.raises(NeurofmShardsError, match="mode='resume'"):
        ShardCollection.open(tmp_path / "out")


def test_resume_of_nothing_and_of_a_finished_data_set_is_harmless(toys, tmp_path, tree):
    paths = toys(a={"n": 9})
    convert_inputs(paths, tmp_path / "out", CONFIG, mode="resume")
    before = tree(tmp_path / "out")
    assert convert_inputs(paths, tmp_path / "out", CONFIG, mode="resume")["total_samples"] == 9
    assert tree(tmp_path / "out") == before


def test_resume_explains_what_differs(toys, toy, tmp_path, monkeypatch):
    paths = toys(a={"n": 30}, b={"n": 3}, c={"n": 2})
    interrupted(paths[:2], tmp_path / "out", toy, monkeypatch)
    with pytest.raises(ConfigError, match="shard_size is 5 and was 4"):
        convert_inputs(paths[:2], tmp_path / "out", {"shard_size": 5}, mode="resume")
    with pytest.raises(ConfigError, match=r"input c\.toy is new"):
        convert_inputs(paths, tmp_path / "out", CONFIG, mode="resume")
    with pytest.raises(ConfigError, match=r"input b\.toy is missing"):
        convert_inputs(paths[:1], tmp_path / "out", CONFIG, mode="resume")
    with pytest.raises(ConfigError, match="another order"):
        convert_inputs(paths[1::-1], tmp_path / "out", CONFIG, mode="resume")
    toys(a={"n": 31}, b={"n": 3})
    with pytest.raises(ConfigError, match=r"input a\.toy has changed"):
        convert_inputs(paths[:2], tmp_path / "out", CONFIG, mode="resume")


@pytest.mark.parametrize("harm", ["remove", "shorten", "sidecar", "torn journal", "zeroed journal", "temporary"])
def test_shards_that_were_harmed_meanwhile_are_made_again(toys, toy, tmp_path, tree, monkeypatch, harm):
    paths = toys(a={"n": 30})
    convert_inputs(paths, tmp_path / "whole", CONFIG)
    out = tmp_path / "out"
    interrupted(paths, out, toy, monkeypatch)
    shard = out / "shard_000001.tar"
    if harm == "remove":
        shard.unlink()
    elif harm == "shorten":
        os.truncate(shard, 700)
    elif harm == "sidecar":
        (out / ".neurofm/shard_000001.tar.meta").unlink()
    elif harm == "torn journal":
        journal = out / ".neurofm/journal"
        os.truncate(journal, journal.stat().st_size - 20)
    elif harm == "zeroed journal":  # a page that never reached the disk, though the file's length did
        journal = out / ".neurofm/journal"
        journal.write_bytes(journal.read_bytes()[:-100] + bytes(99) + b"\n")
    else:
        (out / ".neurofm/staging-dead/0").mkdir(parents=True)
        (out / ".neurofm/staging-dead/0/.shard_000000.tar.partial").write_bytes(b"half")
        (out / ".dataset_metadata.json.partial").write_bytes(b"half")
    convert_inputs(paths, out, CONFIG, mode="resume")
    assert tree(out) == tree(tmp_path / "whole")


def test_a_power_loss_without_syncing_is_found_by_reading_everything(toys, toy, tmp_path, tree, monkeypatch):
    paths = toys(a={"n": 30})
    config = {"shard_size": 40, "durable": False}
    convert_inputs(paths, tmp_path / "whole", config)
    out = tmp_path / "out"
    from neurofm_shards.convert import commit as api

    with monkeypatch.context() as patch:
        patch.setattr(api, "commit_manifest", None)
        with pytest.raises(TypeError):
            convert_inputs(paths, out, config)
    shard = out / "shard_000000.tar"
    data = bytearray(shard.read_bytes())
    data[5000:9096] = bytes(4096)  # a page that never reached the disk, where no quick look looks
    shard.write_bytes(data)
    journal = out / ".neurofm/journal"
    header, rest = journal.read_bytes().split(b"\n", 1)
    changed = json.loads(header[17:])
    changed["boot"] = "another"
    import orjson
    import xxhash

    text = orjson.dumps(changed)
    journal.write_bytes(xxhash.xxh3_64_hexdigest(text).encode() + b" " + text + b"\n" + rest)
    convert_inputs(paths, out, config, mode="resume")
    assert tree(out) == tree(tmp_path / "whole")


def wait_until(reached):
    """Wait until a condition holds; five minutes only end a test that hangs."""
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline, "what is waited for never comes"
        time.sleep(0.01)


def kill_at_random(paths, out, whole, tree, *, kills, workers, seed):
    """Start, kill at a random moment, resume; some moments are counted from the first shard that a run records."""
    rng = random.Random(seed)  # noqa: S311  (moments, not secrets)
    hit = hit_after_a_record = 0
    while hit < kills or not hit_after_a_record:
        shutil.rmtree(out, ignore_errors=True)
        options, finished = [], False
        while not finished and (hit < kills or not hit_after_a_record):
            before = journal_lines(out)
            with subprocess.Popen(
                command(paths, out, *options, workers=workers), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ) as running:
                if rng.random() < 0.5:
                    while journal_lines(out) <= before + 1 and running.poll() is None:
                        time.sleep(0.01)
                try:
                    running.wait(timeout=rng.uniform(0, 0.6))
                except subprocess.TimeoutExpired:
                    hit += 1
                    hit_after_a_record += journal_lines(out) > before + 1
                    running.kill()
                _, err = running.communicate()
            finished = running.returncode == 0
            assert running.returncode in (0, -signal.SIGKILL), err.decode()
            options = ["--resume"]
        subprocess.run(command(paths, out, "--resume", workers=workers), check=True, capture_output=True)
        assert tree(out) == tree(whole)


def journal_lines(out):
    """Return the number of lines of the journal: the header, and what was recorded."""
    try:
        return (out / ".neurofm/journal").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("workers", [1, 4])
def test_a_few_kills_change_nothing(toys, tmp_path, tree, workers):
    paths = toys(a={"n": 60, "slow_s": 0.02}, b={"n": 30, "slow_s": 0.02})
    convert_inputs(paths, tmp_path / "whole", {"shard_size": 4, "durable": False})
    kill_at_random(paths, tmp_path / "out", tmp_path / "whole", tree, kills=3, workers=workers, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_hundreds_of_kills_change_nothing(toys, tmp_path, tree, workers):
    kills = int(os.environ.get("NEUROFM_SHARDS_KILLS", "200"))
    paths = toys(a={"n": 100, "slow_s": 0.01}, b={"n": 70, "slow_s": 0.01}, c={"n": 31})
    convert_inputs(paths, tmp_path / "whole", {"shard_size": 4, "durable": False})
    kill_at_random(paths, tmp_path / "out", tmp_path / "whole", tree, kills=kills, workers=workers, seed=workers)


def test_a_killed_worker_is_a_clear_error_and_resumable(toys, tmp_path, tree):
    paths = toys(a={"n": 30})
    convert_inputs(paths, tmp_path / "whole", CONFIG)
    toys(a={"n": 30, "kill_at": 14})
    with pytest.raises(WorkerError, match=r"worker process died.*mode='resume'"):
        convert_inputs(paths, tmp_path / "out", CONFIG, workers=2)


def test_workers_die_with_a_killed_parent(toys, tmp_path):
    paths = toys(a={"n": 60, "waits_at": 9})
    running = subprocess.Popen(command(paths, tmp_path / "out", workers=2), start_new_session=True)
    wait_until(lambda: len(processes_of(running.pid)) >= 4)  # itself, fork server, resource tracker and workers
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    wait_until(lambda: not processes_of(running.pid))


def processes_of(session):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def test_ctrl_c_is_130_and_resumable(toys, tmp_path, tree):
    paths = toys(a={"n": 60, "waits_at": 30})
    running = subprocess.Popen(
        command(paths, tmp_path / "out", workers=2), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: list((tmp_path / "out").glob("*.tar")))
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err
    (tmp_path / "in/a.go").touch()
    subprocess.run(command(paths, tmp_path / "out", "--resume"), check=True, capture_output=True)
    convert_inputs(paths, tmp_path / "whole", {"shard_size": 4})
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_two_converters_are_kept_apart_by_a_lock_that_dies_with_its_holder(toys, tmp_path):
    paths = toys(a={"n": 5})
    code = (
        "import sys; from pathlib import Path; from neurofm_shards.writing.lock import OutputLock;"
        f"lock = OutputLock(Path({str(tmp_path / 'out')!r})); lock.__enter__();"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(OutputLockedError, match="another process"):
        convert_inputs(paths, tmp_path / "out")
    holder.kill()
    holder.communicate()
    assert convert_inputs(paths, tmp_path / "out")["total_samples"] == 5


def test_the_lock_leaves_nothing(tmp_path):
    with OutputLock(tmp_path / "out"), pytest.raises(OutputLockedError), OutputLock(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()
    assert fcntl.LOCK_EX


def test_a_bad_input_stops_everything_by_default(toys, tmp_path):
    paths = toys(a={"n": 5}, b={"n": 5, "broken_at": 2})
    with pytest.raises(SourceError, match=r"b\.toy: samples .* cannot be read: OSError: bad chunk"):
        convert_inputs(paths, tmp_path / "out", CONFIG)


@pytest.mark.parametrize("workers", [1, 2])
def test_skipped_inputs_are_recorded_and_retried_alone(toys, toy, tmp_path, tree, workers):
    said = {"a": {"n": 5}, "b": {"n": 9, "broken_at": 2, "units": 2}, "c": {"n": 6}}
    paths = toys(**said)
    (tmp_path / "in/d.toy").write_text("not json")
    paths.append(str(tmp_path / "in/d.toy"))
    config = {**CONFIG, "on_error": "skip"}
    result = convert_inputs(paths, tmp_path / "out", config, workers=workers)
    failures = {entry["files"][0]: entry for entry in result["failures"]}
    assert failures["b.toy"]["rows"] == [[0, 3]]
    assert "bad chunk" in failures["b.toy"]["error"]
    assert failures["d.toy"]["rows"] is None
    assert result["total_samples"] == 5 + 6 + 6
    assert str(tmp_path) not in (tmp_path / "out/dataset_metadata.json").read_text()
    old = tree(tmp_path / "out")
    assert convert_inputs(paths, tmp_path / "out", config, mode="resume")["failures"] == list(failures.values())
    assert {name: data for name, data in tree(tmp_path / "out").items() if name.endswith(".tar")} == {
        name: data for name, data in old.items() if name.endswith(".tar")
    }


def test_a_retry_adds_just_what_was_missing(toys, toy, tmp_path, monkeypatch, tree):
    paths = toys(a={"n": 5}, b={"n": 9, "units": 2}, c={"n": 6})
    config = {**CONFIG, "on_error": "skip"}
    read = toy.ToySamples.read

    def flaky(self, start, stop):
        if self.said["seed"] == 1 and start <= 1 < stop:
            raise OSError("bad chunk")
        return read(self, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(toy.ToySamples, "read", flaky)
        assert convert_inputs(paths, tmp_path / "out", config)["total_samples"] == 17
    before = tree(tmp_path / "out")
    result = convert_inputs(paths, tmp_path / "out", config, mode="resume")
    assert (result["total_samples"], result["failures"]) == (20, [])
    after = tree(tmp_path / "out")
    assert all(after[name] == data for name, data in before.items() if name.endswith(".tar"))
    data = ShardCollection.open(tmp_path / "out")
    rows = sorted((m["session_id"], m["row"]) for m in data.metadata(np.arange(20)))
    assert rows == sorted([("a", i) for i in range(5)] + [("b", i) for i in range(9)] + [("c", i) for i in range(6)])
    assert len(set(data.keys(np.arange(20)))) == 20
    units = {
        m["session_id"]: data.gather(np.array([i]))["unit_ids"][0].tolist()
        for i, m in enumerate(data.metadata(np.arange(20)))
    }
    assert units == {"a": [0, 1, 2], "b": [3, 4], "c": [5, 6, 7]}


def test_an_input_that_changes_between_planning_and_reading_is_noticed(toys, toy, tmp_path, monkeypatch):
    paths = toys(a={"n": 5})
    from neurofm_shards.convert import session as api

    combine = api.plan_conversion

    def change(*args, **kwargs):
        plan = combine(*args, **kwargs)
        toys(a={"n": 5, "seed": 9})
        return plan

    monkeypatch.setattr(api, "plan_conversion", change)
    with pytest.raises(InputChangedError, match=r"a\.toy changed after it was planned"):
        convert_inputs(paths, tmp_path / "out")


def test_append_adds_new_inputs_and_rewrites_nothing(toys, toy, tmp_path, tree):
    paths = toys(a={"n": 5}, b={"n": 6, "units": 2}, c={"n": 3})
    convert_inputs(paths[:2], tmp_path / "out", CONFIG)
    before = tree(tmp_path / "out")
    held = ShardCollection.open(tmp_path / "out")
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere")
    moved = sorted(str(path) for path in (tmp_path / "elsewhere").iterdir())
    result = convert_inputs(moved, tmp_path / "out", mode="append")
    assert (result["total_samples"], result["total_shards"]) == (14, 4)
    after = tree(tmp_path / "out")
    assert all(after[name] == data for name, data in before.items() if name.endswith((".tar", ".idx", ".meta")))
    np.testing.assert_array_equal(held.gather(np.array([0]))["x"][0], toy.values(0, 0, 3))
    data = ShardCollection.open(tmp_path / "out")
    assert data.keys(np.arange(11, 14)) == [f"sample_{i:09d}" for i in (12, 13, 14)]
    assert [data.gather(np.array([i]))["unit_ids"][0].tolist() for i in (0, 6, 12)] == [[0, 1, 2], [3, 4], [5, 6, 7]]
    assert [source["files"] for source in manifest(tmp_path / "out")["sources"]] == [["a.toy"], ["b.toy"], ["c.toy"]]
    assert convert_inputs(moved, tmp_path / "out", mode="append")["total_samples"] == 14
    assert tree(tmp_path / "out") == after


def test_append_refuses_other_settings_and_sessions_that_are_there(toys, tmp_path):
    paths = toys(a={"n": 5}, b={"n": 6}, c={"n": 3, "session": "a"})
    convert_inputs(paths[:1], tmp_path / "out", CONFIG)
    with pytest.raises(ConfigError, match="shard_size is 7 and was 4"):
        convert_inputs(paths[1:2], tmp_path / "out", {"shard_size": 7}, mode="append")
    with pytest.raises(ConfigError, match="already, with other content.*drop it first, then append"):
        convert_inputs(paths[2:], tmp_path / "out", mode="append")


def test_an_interrupted_append_leaves_the_old_data_set_and_goes_on(toys, toy, tmp_path, tree, monkeypatch):
    paths = toys(a={"n": 5}, b={"n": 30})
    for name in ("out", "whole"):
        convert_inputs(paths[:1], tmp_path / name, CONFIG)
    convert_inputs(paths[1:], tmp_path / "whole", CONFIG, mode="append")
    before = (tmp_path / "out/dataset_metadata.json").read_bytes()
    from neurofm_shards.convert import shard_run

    finish = shard_run.ShardRun._finish
    done = []

    def failing(self, answers):
        for answer in answers:
            if len(done) == 3:
                raise OSError(28, "No space left on device")
            done.append(answer)
            finish(self, [answer])

    with monkeypatch.context() as patch:
        patch.setattr(shard_run.ShardRun, "_finish", failing)
        with pytest.raises(OSError, match="No space"):
            convert_inputs(paths[1:], tmp_path / "out", mode="append")
    assert (tmp_path / "out/dataset_metadata.json").read_bytes() == before
    assert ShardCollection.open(tmp_path / "out").num_samples == 5
    shutil.copytree(tmp_path / "out", tmp_path / "given up")
    (finding,) = repair(tmp_path / "given up").findings
    assert finding.consequence == "they were deleted; converting with mode='append' adds them again"
    convert_inputs(paths[1:], tmp_path / "out", mode="append")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
