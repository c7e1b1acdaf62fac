"""The package is whole without its module in C: built so on purpose, or because it cannot be compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.plugins

ROOT = Path(__file__).resolve().parents[2]

LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader
from neurofm_shards.reading import row_copy
assert not row_copy.COMPILED and row_copy.__file__.startswith(sys.argv[1])
data = {"x": np.random.default_rng(0).normal(size=(50, 30, 70)), "n": np.arange(50)}
create_shards_from_arrays(sys.argv[2], data, shard_size=20)
for workers in (0, 2):
    for batch in create_webdataset_dataloader(sys.argv[2], 8, workers, shuffle="global"):
        assert np.array_equal(batch["x"].numpy(), data["x"][batch["n"].numpy()])
print("the same")
"""


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", str(folder), str(ROOT)]
    env = {key: value for key, value in os.environ.items() if key != "NEUROFM_SHARDS_BUILD"} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"NEUROFM_SHARDS_BUILD": "pure"}, ""),
        ({"CC": "/there/is/no/compiler"}, "were not compiled, NumPy will do their work"),
    ],
)
def test_a_wheel_without_c_is_for_every_platform_and_loads_the_same(tmp_path, environment, says):
    done = build(tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".c", ".so"))]
        archive.extractall(tmp_path / "package")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "package"), str(tmp_path / "shards")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path)
    assert loaded.stdout == "the same\n", loaded.stderr


def test_one_who_asks_for_c_gets_an_error_where_it_cannot_be_had(tmp_path):
    done = build(tmp_path, NEUROFM_SHARDS_BUILD="compiled", CC="/there/is/no/compiler")
    assert done.returncode != 0
    assert not list(tmp_path.glob("*.whl"))
