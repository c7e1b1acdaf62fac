"""``neurofm-shards convert``: flags, job files, exit codes and what is printed where."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOY_PLUGIN = Path(__file__).parents[1] / "plugins" / "toy_plugin.py"


def run(*words, cwd=None, plugin=True):
    command = [sys.executable, "-m", "neurofm_shards", "convert", *map(str, words)]
    command += ["--plugin", str(TOY_PLUGIN)] if plugin else []
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def toy_files(tmp_path):
    for i, (name, n) in enumerate({"a": 7, "b": 4}.items()):
        (tmp_path / f"{name}.toy").write_text(json.dumps({"n": n, "seed": i}))
    return [tmp_path / "a.toy", tmp_path / "b.toy"]


def manifest(folder):
    return json.loads((folder / "dataset_metadata.json").read_text())


def test_results_go_to_stdout_and_all_else_to_stderr(toy_files, tmp_path):
    done = run("-i", *toy_files, "-o", tmp_path / "out", "--shard-size", 3)
    assert done.returncode == 0
    assert done.stdout.startswith("11 samples in 4 shards")
    assert "2 inputs, 11 samples, 4 shards" in done.stderr
    done = run("-i", *toy_files, "-o", tmp_path / "json", "--json")
    assert json.loads(done.stdout)["total_samples"] == 11


def test_a_quoted_pattern_is_expanded_in_sorted_order(toy_files, tmp_path):
    assert run("-i", str(tmp_path / "*.toy"), "-o", tmp_path / "out").returncode == 0
    assert [source["files"] for source in manifest(tmp_path / "out")["sources"]] == [["a.toy"], ["b.toy"]]


def test_source_options_are_flags(toy_files, tmp_path):
    assert run("-i", *toy_files, "-o", tmp_path / "out", "--scale", 2.5).returncode == 0
    assert manifest(tmp_path / "out")["config"]["source"] == {"kind": "toy", "scale": 2.5}
    shown = run("-i", toy_files[0], "--help")
    assert "--scale FLOAT" in shown.stdout
    assert "factor on every value" in shown.stdout


def test_a_job_file_holds_settings_and_flags_go_before_it(toy_files, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text(
        f'input = ["{tmp_path}/*.toy"]\noutput = "{tmp_path}/out"\nshard_size = 2\ncodec = "npy"\n'
        '[source]\nscale = 3.0\n[[transforms]]\nkind = "drop-below"\nrow = 1\n'
    )
    assert run("--config", job, "--shard-size", 5).returncode == 0
    found = manifest(tmp_path / "out")
    assert (found["config"]["shard_size"], found["config"]["codec"], found["total_samples"]) == (5, "npy", 9)
    assert found["config"]["source"] == {"kind": "toy", "scale": 3.0} or found["config"]["source"] == {"scale": 3.0}


@pytest.mark.parametrize("text", ["bin_size_ms = 5\n", "[windows]\nbin_size_ms = 5\n"])
def test_window_options_stand_at_the_top_of_a_job_file_or_in_their_table(toy_files, tmp_path, text):
    (tmp_path / "job.toml").write_text(text)
    done = run("-i", *toy_files, "-o", tmp_path / "out", "--config", tmp_path / "job.toml")
    assert done.returncode == 2
    assert "--bin-size-ms cut windows out of recordings" in done.stderr


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(toy_files, tmp_path):
    done = run("-i", *toy_files, "--dry-run", "--json", "--shard-size", 4, "--transform", "drop-odd")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert (said["total_samples"], said["total_shards"]) == (11, 3)
    assert [item["num_samples"] for item in said["inputs"]] == [7, 4]
    assert said["inputs"][0]["drops"] == {"too short": 2}
    assert {column["name"]: column["shape"] for column in said["columns"]} == {"x": [5, 3], "unit_ids": [3]}
    table = run("-i", *toy_files, "--dry-run")
    assert "2 too short" in table.stdout
    assert re.search(r"^x +\S+ +5 x 3$", table.stdout, re.MULTILINE)
    assert table.stdout.isascii()  # no boxes
    run("-i", *toy_files, "-o", tmp_path / "out", "--shard-size", 4)
    real = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    plain = json.loads(run("-i", *toy_files, "--dry-run", "--json", "--shard-size", 4).stdout)
    assert 0.7 < plain["estimated_bytes"] / real < 1.3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-i", "absent.toy", "-o", "out"], 2, "absent.toy does not exist"),
        (["-i", "*.nothing", "-o", "out"], 2, "no file matches"),
        (["-i", "odd.xyz", "-o", "out"], 3, "no installed source reads"),
        (["-i", "a.toy", "-o", "out", "--format", "toys"], 3, "did you mean 'toy'"),
        (["-i", "a.toy", "-o", "out", "--compression", "zip"], 3, "no compression named 'zip'"),
        (["-i", "a.toy", "-o", "out", "--codec", "pickle"], 3, "no codec named 'pickle'"),
        (["-i", "a.toy", "-o", "out", "--shard-size", "0"], 2, "--shard-size"),
        (["-i", "a.toy", "-o", "out", "--transform", "nope"], 3, "no transform named 'nope'"),
        (["-i", "a.toy", "-o", "out", "--transform", "{nope"], 2, "not JSON"),
        (["-i", "a.toy", "-o", "out", "-w", "0"], 2, "at least 1"),
        (["-i", "a.toy", "-o", "out", "--config", "absent.toml"], 2, "absent.toml does not exist"),
        (["-i", "a.toy", "-o", "out", "--config", "odd.xyz"], 2, "cannot be read as TOML"),
        (["-i", "a.toy"], 2, "-o DIR"),
        (["-o", "out"], 2, "-i FILES"),
        (["-i", "a.toy", "-o", "a.toy"], 2, "is a file"),
        (["-i", "bad.toy", "-o", "out"], 1, "bad.toy cannot be opened"),
        (["-i", "a.toy", "-o", "out", "--resume", "--append"], 2, "not allowed with"),
    ],
)
def test_mistakes_are_one_line_with_the_right_exit_code(toy_files, tmp_path, words, code, message):
    (tmp_path / "odd.xyz").write_text("= odd")
    (tmp_path / "bad.toy").write_text("{")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_failed_input_that_is_skipped_is_exit_code_1(toy_files, tmp_path):
    (tmp_path / "bad.toy").write_text("{")
    words = ["-i", str(tmp_path / "*.toy"), "-o", tmp_path / "out", "--on-error", "skip"]
    done = run(*words)
    assert done.returncode == 1
    assert "failed: bad.toy" in done.stdout
    (tmp_path / "bad.toy").write_text(json.dumps({"n": 2, "seed": 5}))
    done = run(*words, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("13 samples")


def test_append_and_overwrite(toy_files, tmp_path):
    run("-i", toy_files[0], "-o", tmp_path / "out")
    done = run("-i", *toy_files, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "--append" in done.stderr
    assert run("-i", *toy_files, "-o", tmp_path / "out", "--append").stdout.startswith("11 samples")
    assert run("-i", toy_files[1], "-o", tmp_path / "out", "--overwrite").stdout.startswith("4 samples")


def test_help_needs_neither_numpy_nor_torch_nor_any_plugin(tmp_path):
    code = (
        "import sys; from neurofm_shards.cli.main import run\n"
        "try: run(['convert', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.stderr.write(str([m for m in ('numpy', 'torch', 'pynwb', 'h5py') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]"
    assert "--bin-size-ms FLOAT" in done.stdout


def test_the_old_command_is_convert(toy_files, tmp_path):
    command = Path(sys.executable).with_name("convert_to_shards")
    words = ["-i", *map(str, toy_files), "-o", str(tmp_path / "out"), "--plugin", str(TOY_PLUGIN)]
    done = subprocess.run([str(command), *words], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.startswith("11 samples")


def test_inputs_without_a_flag_are_told_which_one(toy_files, tmp_path):
    done = run(*toy_files, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "inputs are given with -i" in done.stderr
    assert "inputs are given" not in run("-i", *toy_files, "-o", tmp_path / "out", "--shardsize=3").stderr


def test_executors_take_options_from_flags_json_and_job_files(toy_files, tmp_path):
    (tmp_path / "job.toml").write_text('[executor]\nkind = "threads"\nworkers = 2\n')
    ways = {
        "name": ("--executor", "threads", "-w", 2),
        "json": ("--executor", '{"kind": "threads", "workers": 2}'),
        "options": ("--executor", "processes", "-x", "workers=2", "-x", "start=spawn"),
        "job": ("--config", tmp_path / "job.toml"),
        "job and flag": ("--config", tmp_path / "job.toml", "-x", "workers=1"),
    }
    for name, words in ways.items():
        done = run("-i", *toy_files, "-o", tmp_path / name, "--shard-size", 3, *words)
        assert done.returncode == 0, done.stderr
    assert len({(tmp_path / name / "dataset_metadata.json").read_bytes() for name in ways}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-x", "workers=2"], "name it with --executor"),
        (["--executor", "threads", "-x", "workers"], "write OPTION=VALUE"),
        (["--executor", "threads", "-x", "speed=3"], "speed: no such option"),
        (["--executor", '{"kind": '], "not JSON"),
    ],
)
def test_wrong_executor_options_are_one_line(toy_files, tmp_path, words, message):
    done = run("-i", *toy_files, "-o", tmp_path / "out", *words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_events_are_appended_as_lines_of_json(toy_files, tmp_path):
    for _ in range(2):
        done = run(
            "-i", *toy_files, "-o", tmp_path / "out", "--shard-size", 3, "--overwrite", "--events", tmp_path / "log"
        )
        assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names == ["planning-started", "input-planned", "input-planned", "conversion-started"] + [
        "shard-committed"
    ] * 4 + ["conversion-finished"] + ["planning-started", "input-planned", "input-planned", "conversion-started"] + [
        "shard-committed"
    ] * 4 + ["conversion-finished"]
    committed = [event for event in events if event["event"] == "shard-committed"]
    assert sum(event["shard"]["num_samples"] for event in committed) == 2 * 11
    assert all(event["host"] and event["seconds"] > 0 and event["time"] > 0 for event in committed)


def test_a_folder_that_is_taken_is_not_said_to_be_this_command_s_work(toy_files, tmp_path):
    refused = '{"kind": "label", "values": "[1] * 5 + [[2]]"}'
    assert run("-i", toy_files[0], "-o", tmp_path / "out", "--shard-size", 2, "--transform", refused).returncode == 1
    assert list(tmp_path.glob("out/.neurofm/**/journal"))
    done = run("-i", *toy_files, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "holds an unfinished conversion" in done.stderr
    assert "run the same command" not in done.stderr


@pytest.mark.parametrize("mode", ["--append", "--resume"])
def test_a_dry_run_says_that_it_does_not_look_at_the_output(toy_files, tmp_path, mode):
    done = run("-i", *toy_files, "-o", tmp_path / "out", "--dry-run", mode)
    assert done.returncode == 0
    assert "note: this is what a new data set would be" in done.stderr
    assert "note: " not in run("-i", *toy_files, "--dry-run").stderr
