"""A conversion in parts: any number of machines, in any order, with kills between, and the bytes of one worker."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from neurofm_shards.convert import stored_plan
from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.parts import (
    Part,
    check_options,
    commit_parts,
    join_parts,
    plan_part,
    plan_parts,
    run_part,
)
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.convert.status import read_status
from neurofm_shards.errors import (
    ConfigError,
    FormatError,
    InputChangedError,
    OutputExistsError,
    OutputLockedError,
    SourceError,
)
from neurofm_shards.events import ConversionFinished, ConversionStarted, ShardCommitted
from neurofm_shards.writing.lock import OutputLock

OPTIONS = {"shard_size": 4, "compression": "gz", "transforms": [{"kind": "drop-odd"}]}
CONFIG = ConversionConfig.of(OPTIONS)


@pytest.fixture
def paths(toys):
    return toys(a={"n": 9}, b={"n": 5, "units": 2}, c={"n": 13})


@pytest.fixture
def whole(paths, toy, tmp_path, tree):
    """What one worker makes."""
    convert_inputs(paths, tmp_path / "whole", OPTIONS)
    return tree(tmp_path / "whole")


def test_parts_in_any_order_give_the_bytes_of_one_worker(paths, whole, tmp_path, tree):
    header = plan_parts(paths, tmp_path / "out", CONFIG, parts=4)
    assert (header.total_inputs, header.total_samples, header.total_shards, header.parts) == (3, 27, 7, 4)
    for k in (3, 1, 4, 2, 2):
        run_part(tmp_path / "out", Part(k, 4), workers=1 + k % 2)
    commit_parts(tmp_path / "out")
    assert tree(tmp_path / "out") == whole


def test_the_planning_itself_is_done_in_parts(paths, whole, tmp_path, tree):
    assert sum(plan_part(paths, tmp_path / "out", CONFIG, Part(k, 2)) for k in (2, 1)) == 3
    assert read_status(tmp_path / "out").state == "planning"
    join_parts(tmp_path / "out", parts=2)
    for k in (1, 2):
        run_part(tmp_path / "out", Part(k, 2))
    commit_parts(tmp_path / "out")
    assert tree(tmp_path / "out") == whole


def test_what_another_part_is_writing_at_this_moment_is_no_obstacle(paths, toy, tmp_path):
    """Nor is what one that was killed left half written."""
    hidden = tmp_path / "out/.neurofm"
    hidden.mkdir(parents=True)
    for name in (".plan-inputs-2-of-3.123-0.partial", ".0f3a.partial"):
        (hidden / name).write_text("half")
    assert plan_part(paths, tmp_path / "out", CONFIG, Part(1, 3)) == 1
    plan_parts(paths, tmp_path / "out", CONFIG)


def test_parts_of_another_number_and_resume_finish_a_plan_too(paths, whole, tmp_path, tree):
    plan_parts(paths, tmp_path / "out", CONFIG, parts=4)
    run_part(tmp_path / "out", Part(2, 3))
    run_part(tmp_path / "out", Part(1, 4))
    convert_inputs(paths, tmp_path / "out", OPTIONS, mode="resume")
    assert tree(tmp_path / "out") == whole


def test_a_commit_says_which_parts_are_missing(paths, toy, tmp_path):
    plan_parts(paths, tmp_path / "out", CONFIG, parts=7)
    for k in (1, 5):
        run_part(tmp_path / "out", Part(k, 7))
    with pytest.raises(
        ConfigError, match=r"lacks 5 of 7 shards, of parts 2-4,6-7 of 7; run them again with --part K/7,"
    ):
        commit_parts(tmp_path / "out")


def test_a_finished_part_has_nothing_to_do_and_a_damaged_shard_is_written_again(paths, whole, tmp_path, tree):
    plan_parts(paths, tmp_path / "out", CONFIG, parts=1)
    assert run_part(tmp_path / "out", Part(1, 1)) == 7
    assert run_part(tmp_path / "out", Part(1, 1)) == 0
    (tmp_path / "out/shard_000002.tar.gz").unlink()
    with pytest.raises(ConfigError, match="lacks 1 of 7 shards, of part 1 of 1; run it again with --part 1/1, then"):
        commit_parts(tmp_path / "out")
    assert run_part(tmp_path / "out", Part(1, 1)) == 1
    commit_parts(tmp_path / "out")
    assert tree(tmp_path / "out") == whole


def test_parts_share_the_lock_and_keep_everybody_else_away(paths, toy, tmp_path):
    plan_parts(paths, tmp_path / "out", CONFIG, parts=2)
    with OutputLock(tmp_path / "out", shared=True):
        run_part(tmp_path / "out", Part(1, 2))
        for other in (commit_parts, lambda folder: convert_inputs(paths, folder, OPTIONS, mode="resume")):
            with pytest.raises(OutputLockedError):
                other(tmp_path / "out")
    with OutputLock(tmp_path / "out"), pytest.raises(OutputLockedError):
        run_part(tmp_path / "out", Part(2, 2))


def test_one_part_is_run_once_at_a_time(paths, toy, tmp_path, monkeypatch):
    plan_parts(paths, tmp_path / "out", CONFIG, parts=2)
    monkeypatch.setattr("neurofm_shards.convert.parts._PATIENCE_S", 0.2)
    refused = []

    def again(event):
        if isinstance(event, ShardCommitted) and not refused:
            with pytest.raises(OutputLockedError, match="part 1/2 is being written") as caught:
                run_part(tmp_path / "out", Part(1, 2))
            refused.append(caught)
            assert read_status(tmp_path / "out").parts[0].state == "running"

    run_part(tmp_path / "out", Part(1, 2), observer=again)
    assert refused


def test_each_part_tells_of_its_share(paths, toy, tmp_path):
    plan_parts(paths, tmp_path / "out", CONFIG, parts=3)
    told = {k: [] for k in (1, 2, 3)}
    for k, events in told.items():
        run_part(tmp_path / "out", Part(k, 3), observer=events.append)
        begun = next(event for event in events if isinstance(event, ConversionStarted))
        assert begun.plan["total_shards"] == sum(isinstance(event, ShardCommitted) for event in events)
    numbers = [event.shard_idx for events in told.values() for event in events if isinstance(event, ShardCommitted)]
    assert numbers == list(range(7))
    finished = []
    commit_parts(tmp_path / "out", observer=finished.append)
    assert [type(event) for event in finished] == [ConversionFinished]


def test_other_options_versions_and_inputs_are_refused(paths, toy, toys, tmp_path, monkeypatch):
    plan_parts(paths, tmp_path / "out", CONFIG)
    check_options(tmp_path / "out", {"shard_size": 4, "transforms": ["drop-odd"]})
    with pytest.raises(ConfigError, match="shard_size is 5 and was 4"):
        check_options(tmp_path / "out", {"shard_size": 5})
    with monkeypatch.context() as patch:
        patch.setattr(stored_plan, "versions_of", lambda names: dict.fromkeys(names, "0.0.7"))
        with pytest.raises(ConfigError, match=r"neurofm-shards is 0\.0\.7 here and was "):
            run_part(tmp_path / "out", Part(1, 1))
        with pytest.raises(ConfigError, match="other versions"):
            stored_plan.read_plan(tmp_path / "out", tmp_path / "out/.neurofm", facts=True)
    toys(a={"n": 9, "seed": 77})
    with pytest.raises(
        InputChangedError, match=r"a\.toy changed after it was planned.*plan again with --plan-only --overwrite"
    ):
        run_part(tmp_path / "out", Part(1, 1))


def test_a_plan_needs_a_free_folder_or_one_that_is_unfinished(paths, toy, tmp_path):
    plan_parts(paths, tmp_path / "out", CONFIG, parts=2)
    run_part(tmp_path / "out", Part(1, 2))
    with pytest.raises(OutputExistsError, match="3 of 7 shards written"):
        plan_parts(paths, tmp_path / "out", CONFIG)
    plan_parts(paths, tmp_path / "out", CONFIG, parts=5, overwrite=True)
    assert not list((tmp_path / "out").glob("*.tar*"))
    for k in range(1, 6):
        run_part(tmp_path / "out", Part(k, 5))
    commit_parts(tmp_path / "out")
    with pytest.raises(OutputExistsError, match="already holds a data set"):
        plan_parts(paths, tmp_path / "out", CONFIG, overwrite=True)
    for step in (commit_parts, lambda folder: run_part(folder, Part(1, 5))):
        with pytest.raises(ConfigError, match="holds no plan"):
            step(tmp_path / "out")


def test_planned_parts_must_fit_together_and_be_complete(paths, toy, tmp_path):
    with pytest.raises(ConfigError, match="no part of .* is planned"):
        join_parts(tmp_path / "out")
    plan_part(paths, tmp_path / "out", CONFIG, Part(2, 3))
    with pytest.raises(ConfigError, match="parts 1, 3 of 3 of the planning .* are missing"):
        join_parts(tmp_path / "out")
    plan_part(paths, tmp_path / "out", ConversionConfig.of({"shard_size": 5}), Part(1, 3))
    plan_part(paths, tmp_path / "out", CONFIG, Part(3, 3))
    with pytest.raises(ConfigError, match="with other inputs or options"):
        join_parts(tmp_path / "out")


def test_a_damaged_or_foreign_plan_is_refused(paths, toy, tmp_path):
    plan_parts(paths, tmp_path / "out", CONFIG)
    plan = tmp_path / "out/.neurofm/plan"
    data = plan.read_bytes()
    plan.write_bytes(data[:-20])
    with pytest.raises(FormatError, match="is damaged; plan again"):
        run_part(tmp_path / "out", Part(1, 1))
    lines = [json.loads(line) for line in data.splitlines()[1:]]
    lines[0]["version"] = "what"
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    plan.write_bytes(stored_plan.xxhash.xxh3_128_hexdigest(text).encode() + b"\n" + text)
    with pytest.raises(FormatError, match="no plan of this version"):
        run_part(tmp_path / "out", Part(1, 1))


def test_inputs_that_failed_while_planning_are_in_the_manifest(toys, toy, tmp_path, tree):
    paths = toys(a={"n": 9}, b={"n": 5}, c={"n": 13, "broken_at": 3})
    (tmp_path / "in/b.toy").write_text("{")
    options = {"shard_size": 4, "on_error": "skip"}
    convert_inputs(paths, tmp_path / "whole", options)
    plan_parts(paths, tmp_path / "out", ConversionConfig.of(options), parts=2)
    for k in (2, 1):
        run_part(tmp_path / "out", Part(k, 2))
    assert any("bad chunk" in failure for failure in read_status(tmp_path / "out").failures)
    summary = commit_parts(tmp_path / "out")
    assert [entry["files"] for entry in summary["failures"]] == [["b.toy"], ["c.toy"]]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_part_that_fails_says_so_in_the_status(toys, toy, tmp_path):
    paths = toys(a={"n": 9}, b={"n": 9, "broken_at": 3})
    plan_parts(paths, tmp_path / "out", ConversionConfig.of({"shard_size": 3}), parts=2)
    run_part(tmp_path / "out", Part(1, 2))
    with pytest.raises(SourceError, match=r"b\.toy"):
        run_part(tmp_path / "out", Part(2, 2))
    status = read_status(tmp_path / "out")
    assert [(part.part, part.state, part.total_shards) for part in status.parts] == [
        ("1/2", "finished", 3),
        ("2/2", "failed", 3),
    ]
    assert "bad chunk" in status.parts[1].error
    assert status.parts[0].host
    assert status.parts[0].pid == os.getpid()
    assert status.parts[0].shards_per_s > 0


@pytest.mark.parametrize(
    ("text", "parts", "environment", "part"),
    [
        ("2/5", None, {}, (2, 5)),
        ("2", 5, {}, (2, 5)),
        ("auto", 5, {"SLURM_ARRAY_TASK_ID": "3", "SLURM_PROCID": "0"}, (3, 5)),
        ("auto", 5, {"PBS_ARRAY_INDEX": "1"}, (1, 5)),
        ("auto", 5, {"LSB_JOBINDEX": "5"}, (5, 5)),
        ("auto", 5, {"SGE_TASK_ID": "undefined", "JOB_COMPLETION_INDEX": "0"}, (1, 5)),
        ("auto", 5, {"OMPI_COMM_WORLD_RANK": "4"}, (5, 5)),
        ("auto", 5, {"PMI_RANK": "1"}, (2, 5)),
        ("auto", 5, {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "5"}, (3, 5)),
    ],
)
def test_the_part_is_read_from_text_or_environment(text, parts, environment, part):
    assert Part.parse(text, parts, environment) == Part(*part)


@pytest.mark.parametrize(
    ("text", "parts", "environment", "message"),
    [
        ("0/5", None, {}, "parts are numbered from 1 to 5"),
        ("6/5", None, {}, "parts are numbered from 1 to 5"),
        ("x/5", None, {}, "write K/N"),
        ("2", None, {}, "of how many"),
        ("auto", 5, {}, "nothing here says which part"),
        ("auto", 5, {"LSB_JOBINDEX": "0"}, "nothing here says which part"),
        ("auto", 5, {"SLURM_PROCID": "0"}, "nothing here says which part"),
        ("auto", 2, {"SLURM_ARRAY_TASK_ID": "0"}, "part 0 of 2; parts are numbered from 1"),
        ("auto", 2, {"OMPI_COMM_WORLD_RANK": "2"}, "part 3 of 2"),
    ],
)
def test_what_names_no_part_is_refused(text, parts, environment, message):
    with pytest.raises(ConfigError, match=message):
        Part.parse(text, parts, environment)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("total", [0, 1, 6, 7, 100])
def test_shares_are_neighbours_and_all_there_is(n, total):
    assert [i for k in range(1, n + 1) for i in Part(k, n).share(total)] == list(range(total))
    sizes = [len(Part(k, n).share(total)) for k in range(1, n + 1)]
    assert max(sizes) - min(sizes) <= 1


def command(*words):
    return [sys.executable, "-m", "neurofm_shards", *map(str, words)]


def run_killed_parts(inputs, folder, options, rest):
    """Plan three parts, kill them at random moments in random order, and run them again; ``rest``: for all steps."""
    planned = command("convert", "-i", *inputs, "-o", folder, "--plan-only", "--parts", 3, *options, *rest)
    subprocess.run(planned, check=True)
    rng = random.Random(3)  # noqa: S311
    for k in (1, 2, 3, 3, 1, 2):
        part = command("convert", "-o", folder, "--part", f"{k}/3", *rest)
        victim = subprocess.Popen(part, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while victim.poll() is None and time.monotonic() < deadline:
            if (folder / f".neurofm/journal-{k}-of-3").exists():
                time.sleep(rng.uniform(0, 0.4))
                break
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert {part.state for part in read_status(folder).parts} <= {"stopped", "finished"}
    for k in (2, 3, 1):
        subprocess.run(
            command("convert", "-o", folder, "--part", "auto", *rest),
            env={**os.environ, "SLURM_ARRAY_TASK_ID": str(k)},
            check=True,
        )
    subprocess.run(command("convert", "-o", folder, "--commit", *rest), check=True)


def test_parts_that_are_killed_at_any_moment_are_run_again(toys, toy, tmp_path, tree):
    paths = toys(**{f"s{i}": {"n": 9, "slow_s": 0.02} for i in range(6)})
    convert_inputs(paths, tmp_path / "whole", {"shard_size": 2})
    run_killed_parts(paths, tmp_path / "out", ["--shard-size", 2], ["--plugin", toy.__file__])
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.plugins
def test_recordings_are_stored_in_killed_parts_as_by_one_worker(shared_data, tmp_path, tree):
    pytest.importorskip("neurofm_shards_nwb", reason="the inputs are NWB files")
    files = [shared_data / "A2929_head_direction.nwb", shared_data / "A8604_three_units.nwb"]
    sizes = {"shard_bytes": 200_000, "piece_bytes": 50_000, "layout": "recordings"}
    result = convert_inputs(files, tmp_path / "whole", sizes)
    assert result["total_shards"] > 6
    words = [word for name, value in sizes.items() for word in (f"--{name.replace('_', '-')}", value)]
    run_killed_parts(files, tmp_path / "out", words, [])
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_the_steps_are_given_one_by_one(paths, toy, tmp_path):
    for words, message in [
        (["--part", "1/2"], "name the output folder"),
        (["-o", "out", "--part", "1/2"], "holds no plan"),
        (["-o", "out", "--commit"], "holds no plan"),
        (["-o", "out", "--commit", "--part", "1/2"], "one by one"),
        (["-o", "out", "--plan-only", "--append"], "one by one"),
        (["-o", "out", "--plan-only"], "is planned yet"),
        (["-o", "out", "--plan-only", "--part", "1", "-i", *paths], "of how many"),
    ]:
        done = subprocess.run(
            command("convert", *words, "--plugin", toy.__file__),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr
    assert not (tmp_path / "out").exists()
