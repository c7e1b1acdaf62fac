"""Wheels made by strangers, in an environment of their own: found, used, broken, uninstalled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from distributions import BROKEN, CONFORMANCE, FULL, RIVAL_NWB, write_distribution

pytestmark = pytest.mark.plugins

ROOT = Path(__file__).resolve().parents[2]


class Environment:
    """A fresh virtual environment with the core's wheel, whose plugins come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "env"
        self.bin = self.folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        constraints = str(ROOT / "tests" / "constraints.txt")
        self.pip(
            "install", "--constraint", constraints, "hatchling", "pytest", str(ROOT), str(ROOT / "plugins" / "npz")
        )

    def pip(self, *arguments: str) -> None:
        """Run pip."""
        environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
        command = [str(self.bin / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
        subprocess.run(command, check=True, cwd=self.folder, env=environment)

    def install(self, folder: Path) -> None:
        """Build a wheel and install it."""
        self.pip("install", "--no-deps", "--no-build-isolation", str(folder))

    def run(self, *arguments: str, cwd: Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment."""
        command = [str(self.bin / arguments[0]), *arguments[1:]]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
        assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strangers")
    return {
        "full": write_distribution(folder, "stranger-full", FULL),
        "broken": write_distribution(folder, "stranger-broken", BROKEN),
        "rival": write_distribution(folder, "stranger-nwb", RIVAL_NWB),
    }


def test_a_strangers_wheel_is_found_used_and_conforms(environment, strangers, tmp_path):
    environment.install(strangers["full"])
    environment.install(strangers["broken"])
    try:
        listed = json.loads(environment.run("neurofm-shards", "plugins", "list", "--json", cwd=tmp_path, code=1).stdout)
        ours = {(p["kind"], p["name"]) for p in listed["plugins"] if p["distribution"] == "stranger-full"}
        assert ours == {("source", "lines"), ("codec", "stamp"), ("compression", "deflate"), ("transform", "scale")}
        assert [p["version"] for p in listed["plugins"] if p["name"] == "stamp"] == ["2.3.4"]
        assert [(p["distribution"], "this wheel is broken" in p["error"]) for p in listed["broken"]] == [
            ("stranger-broken", True)
        ]
        rows = [{"x": [i, i + 1, i + 2], "label": f"row{i}"} for i in range(25)]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        environment.run(
            "neurofm-shards", "convert", "-i", "rows.jsonl", "-o", "shards", "--compression", "deflate",
            "--offset", "0.5", "--transform", "scale", "--shard-size", "10", "--workers", "2", "--validate",
            cwd=tmp_path,
        )  # fmt: skip
        assert sorted(path.name for path in (tmp_path / "shards").glob("*.zz")) == [
            f"shard_{i:06d}.tar.zz" for i in range(3)
        ]
        (tmp_path / "use.py").write_text(
            "import json, stranger_full\n"
            "from neurofm_shards import *\n"
            "loader = create_webdataset_dataloader('shards', batch_size=25, num_workers=0, shuffle=False)\n"
            "x = next(iter(loader))\n"
            "with WebDatasetWriter('stamps') as writer:\n"
            "    writer.write_sample({'note': stranger_full.Stamp('hello')})\n"
            "note = ShardDataset('stamps')[0]['note'].text\n"
            "print(json.dumps([x['x'].tolist(), [m['label'] for m in x['metadata']], note]))\n"
        )
        x, labels, note = json.loads(environment.run("python", "use.py", cwd=tmp_path).stdout)
        np.testing.assert_array_equal(x, (np.array([row["x"] for row in rows]) + 0.5) * 2)
        assert labels == [row["label"] for row in rows]
        assert note == "hello"
        (tmp_path / "test_conformance.py").write_text(CONFORMANCE)
        suite = environment.run("python", "-m", "pytest", "-q", "test_conformance.py", cwd=tmp_path)
        assert " passed" in suite.stdout
    finally:
        environment.pip("uninstall", "--yes", "stranger-full", "stranger-broken")
    told = environment.run("neurofm-shards", "info", "shards", cwd=tmp_path, code=None)
    assert "stranger-full" in told.stdout + told.stderr, "the manifest knows who wrote the shards"
    lost = environment.run(
        "python", "-c", "from neurofm_shards import ShardDataset; ShardDataset('shards')[0]", cwd=tmp_path, code=1
    )
    assert "deflate" in lost.stderr
    assert "stranger-full" in lost.stderr


def test_the_converter_uses_whoever_provides_nwb(environment, strangers, tmp_path):
    np.savetxt(tmp_path / "spikes.nwb", np.arange(0.05, 20.0, 0.1))
    without = environment.run("neurofm-shards", "convert", "-i", "spikes.nwb", "-o", "out", cwd=tmp_path, code=3)
    assert "pip install 'neurofm-shards[nwb]'" in without.stderr
    (tmp_path / "convert.py").write_text(
        "import sys, json\nfrom neurofm_shards import NWBToWebDatasetConverter, ShardDataset\n"
        "converter = NWBToWebDatasetConverter('py', shard_size=7)\n"
        "converter.convert_nwb_file('spikes.nwb')\n"
        "summary = converter.finalize()\n"
        "print(json.dumps([summary['total_samples'], int(ShardDataset('py')[0]['spikes'].sum())]))\n"
    )
    refused = environment.run("python", "convert.py", cwd=tmp_path, code=1)
    assert "pip install 'neurofm-shards[nwb]'" in refused.stderr
    environment.install(strangers["rival"])
    try:
        environment.run("neurofm-shards", "convert", "-i", "spikes.nwb", "-o", "out", cwd=tmp_path)
        samples, spikes = json.loads(environment.run("python", "convert.py", cwd=tmp_path).stdout)
    finally:
        environment.pip("uninstall", "--yes", "stranger-nwb")
    assert samples > 10
    assert spikes == 10


def test_a_plugin_that_is_uninstalled_leaves_a_hint(environment, tmp_path):
    np.savez(tmp_path / "data.npz", x=np.ones((10, 3)))
    environment.run("neurofm-shards", "convert", "-i", "data.npz", "-o", "shards", cwd=tmp_path)
    environment.pip("uninstall", "--yes", "neurofm-shards-npz")
    try:
        done = environment.run("neurofm-shards", "convert", "-i", "data.npz", "-o", "again", cwd=tmp_path, code=3)
        assert "pip install 'neurofm-shards[npz]'" in done.stderr
        assert "Traceback" not in done.stderr
        environment.run("neurofm-shards", "validate", "shards", cwd=tmp_path)
    finally:
        environment.install(ROOT / "plugins" / "npz")
