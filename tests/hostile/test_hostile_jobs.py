"""Job files come from anyone: each odd one is a usage error, soon, and nothing is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEEP = "[" * 100_000
JOBS = {
    "binary": b"\x00\xff\xfe" * 100,
    "utf-16": "workers = 1".encode("utf-16"),
    "empty table of another kind": b"windows = 3",
    "duplicate keys": b"shard_size = 3\nshard_size = 4",
    "deep arrays": b"input = " + DEEP.encode(),
    "deep tables": b"[" + b".".join([b"a"] * 50_000) + b"]",
    "deep keys": b".".join([b"a"] * 1000) + b" = 1",
    "deep inline tables": b"x = " + b"{a = " * 1000 + b"1" + b"}" * 1000,
    "nan where a number is wanted": b"bin_size_ms = nan",
    "infinity where a number is wanted": b"bin_size_ms = inf",
    "a negative size": b"shard_size = -1",
    "a size beyond all": b"shard_size = 9223372036854775807",
    "a size that no machine knows": b"shard_size = " + b"9" * 300,
    "a float for a count": b"workers = 1.5",
    "a text for a count": b'workers = "many"',
    "a number for an input": b"input = 3",
    "numbers as inputs": b"input = [1, 2]",
    "a table as output": b"[output]\na = 1",
    "a shard name that leaves the folder": b'shard_name_pattern = "../../{shard_idx}.tar"',
    "a shard name with a width": b'shard_name_pattern = "{shard_idx:0999999999d}.tar"',
    "a shard name with an attribute": b'shard_name_pattern = "{shard_idx.__class__}.tar"',
    "a session template with an attribute": b'session_template = "{stem.__class__.__mro__}"',
    "a session template with a width": b'session_template = "{stem:>999999999}"',
    "an unknown setting": b"import_this = 1",
    "an unknown source": b'[source]\nkind = "os.system"',
    "a module as a codec": b'codec = "os:system"',
    "a date": b"shard_size = 2020-01-01",
    "far too large": b"# " + b"x" * (4 << 20),
}


TOY_PLUGIN = Path(__file__).parents[1] / "plugins" / "toy_plugin.py"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.toy").write_text('{"n": 3, "seed": 0}')
    return tmp_path


def convert(folder):
    """Run the command with bounded memory and processor time; a hang is given minutes."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)); "
    code += "resource.setrlimit(resource.RLIMIT_CPU, (20, 20)); "
    code += "from neurofm_shards.__main__ import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "convert", "--config", "job.toml"]
    command += ["--plugin", str(TOY_PLUGIN), "-o", "out"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def assert_refused(folder):
    done = convert(folder)
    assert done.returncode == (3 if "no codec named" in done.stderr else 2), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip()) < 2000
    assert not (folder / "out").exists()


def test_a_sound_job_is_taken(folder):
    (folder / "job.toml").write_text('shard_size = 3\ninput = "a.toy"\nsession_template = "{stem}"')
    assert convert(folder).returncode == 0
    assert (folder / "out/dataset_metadata.json").exists()


@pytest.mark.parametrize("name", JOBS)
def test_a_hostile_job_is_refused(folder, name):
    inputs = b"" if JOBS[name].startswith(b"input") else b'input = "a.toy"\n'
    (folder / "job.toml").write_bytes(inputs + JOBS[name])
    assert_refused(folder)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "dangling link"])
def test_what_is_no_file_is_no_job(folder, kind):
    path = folder / "job.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    assert_refused(folder)
