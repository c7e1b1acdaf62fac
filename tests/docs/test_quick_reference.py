"""Every snippet of the quick reference runs as it is written there, under this package's name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fences import fences

pytestmark = pytest.mark.plugins

REFERENCE = Path(
    os.environ.get(
        "NEUROFM_SHARDS_QUICK_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "quick_reference.md"
    )
)


BARE_LOOP = "    # Automatically checkpoints every 1000 samples"


def snippets(language: str) -> list[str]:
    """The reference's blocks, with the package's name in place of the one it was written for."""
    if not REFERENCE.is_file():
        return []
    found = [block.code for block in fences(REFERENCE) if block.language == language]
    # One loop there has nothing but comments in it, which Python takes for no body at all.
    return [
        code.replace("neuros_neurofm.datasets", "neurofm_shards").replace(BARE_LOOP, f"{BARE_LOOP}\n    pass")
        for code in found
    ]


#: What the snippets take for granted: names that are imported or made elsewhere, and float32 data to train on.
PREAMBLE = """
import sys, types, itertools
import numpy as np, torch
from neurofm_shards import *
from neurofm_shards import WebDatasetLoader, WebDatasetWriter

class NeuroFMX(torch.nn.Module):
    def __init__(self, input_dim, hidden_dim, n_layers):
        super().__init__()
        self.layer = torch.nn.Linear(input_dim, 2)
    def forward(self, x):
        return self.layer(x)

models = types.ModuleType("neuros_neurofm.models")
models.NeuroFMX = NeuroFMX
sys.modules["neuros_neurofm"] = types.ModuleType("neuros_neurofm")
sys.modules["neuros_neurofm.models"] = models
criterion = torch.nn.MSELoss()
my_data = [{"spikes": np.ones((100, 96)), "behavior": np.ones((100, 2))} for _ in range(5)]
data_dict = {"spikes": np.ones((40, 100, 96)), "behavior": np.ones((40, 100, 2))}
trials = [
    types.SimpleNamespace(spikes=np.ones((100, 96)), behavior=np.ones((100, 2)), id=i, condition="left", subject="M1",
                          timestamp=1.5 * i)
    for i in range(5)
]
nwb_files = ["file1.nwb", "file2.nwb"]
"""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder with the inputs that the snippets name."""
    demo = pytest.importorskip("neurofm_shards_nwb.demo")
    folder = tmp_path_factory.mktemp("reference")
    (folder / "data").mkdir()
    for number, name in enumerate(("file1.nwb", "file2.nwb", "data/a.nwb", "data/b.nwb")):
        demo.write_demo_session(folder / name, seconds=20.0, seed=number)
    np.savez(
        folder / "data.npz", spikes=np.ones((40, 100, 96), np.float32), behavior=np.zeros((40, 100, 2), np.float32)
    )
    return folder


@pytest.fixture
def workplace(prepared, tmp_path):
    """A fresh folder with those inputs and with shards to read."""
    from neurofm_shards import create_shards_from_arrays

    for item in prepared.iterdir():
        (tmp_path / item.name).symlink_to(item)
    rng = np.random.default_rng(0)
    data = {
        "spikes": rng.normal(size=(96, 100, 96)).astype("f4"),
        "behavior": rng.normal(size=(96, 100, 2)).astype("f4"),
    }
    create_shards_from_arrays(tmp_path / "train_shards", data, shard_size=40)
    return tmp_path


@pytest.mark.parametrize("number", range(10))
def test_a_python_snippet_runs(number, workplace):
    codes = snippets("python")
    if not codes:
        pytest.skip(f"no quick reference at {REFERENCE}: set NEUROFM_SHARDS_QUICK_REFERENCE")
    code = codes[number]
    prepare_shards(code, workplace)
    (workplace / "snippet.py").write_text(PREAMBLE + code)
    done = subprocess.run(
        [sys.executable, "snippet.py"],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr[-4000:]}"


def prepare_shards(code: str, folder: Path) -> None:
    """Snippets that read ./shards find it there; snippets that write it find nothing there."""
    writes = ("create_shards_from_arrays(", "WebDatasetWriter(", "NWBToWebDatasetConverter(")
    if "./shards" in code and not any(word in code for word in writes):
        (folder / "shards").symlink_to(folder / "train_shards")


def test_the_reference_has_the_snippets_that_are_tested():
    if not REFERENCE.is_file():
        pytest.skip(f"no quick reference at {REFERENCE}: set NEUROFM_SHARDS_QUICK_REFERENCE")
    assert len(snippets("python")) == 10
    assert len(snippets("bash")) == 1


def test_the_command_lines_run(workplace):
    blocks = snippets("bash")
    if not blocks:
        pytest.skip(f"no quick reference at {REFERENCE}: set NEUROFM_SHARDS_QUICK_REFERENCE")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    commands = [line for line in blocks[0].splitlines() if line.startswith("python scripts/convert_to_shards.py")]
    assert len(commands) == 3
    for number, command in enumerate(commands):
        installed = command.replace("python scripts/convert_to_shards.py", "convert_to_shards")
        line = installed.replace("./shards", f"./shards{number}")
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert (workplace / f"shards{number}" / "dataset_metadata.json").is_file()
