"""Every fenced Python and shell block of the README and the documents runs, in order, as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fences import Fence, fences

pytestmark = pytest.mark.plugins

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/README.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
#: Blocks that are whole set-ups of their own: CI runs the one, the demo's own test the other.
SETUPS = {"demo-command", "test-command"}


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """The files that the documents speak of: session.nwb, data/*.nwb and data.npz."""
    np = pytest.importorskip("numpy")
    demo = pytest.importorskip("neurofm_shards_nwb.demo")
    folder = tmp_path_factory.mktemp("reader")
    (folder / "data").mkdir()
    demo.write_demo_session(folder / "session.nwb", seconds=30.0, seed=1)
    for number in (1, 2):
        demo.write_demo_session(folder / "data" / f"day{number}.nwb", seconds=30.0, seed=number + 1)
    rng = np.random.default_rng(0)
    np.save(folder / "F.npy", rng.normal(size=(20, 300)).astype("f4"))
    np.save(folder / "iscell.npy", rng.normal(size=(20, 2)))
    for name in ("session_01", "session_02"):
        (folder / name).mkdir()
        np.save(folder / name / "x.npy", rng.normal(size=(15, 4)))
    seconds = np.arange(0, 20, 0.02)
    np.savez(folder / "positions.npz", t=seconds, pos=np.column_stack([np.cos(seconds), np.sin(seconds)]))
    np.savez(folder / "eog.npz", data=rng.normal(size=(2, 5120)), sf=256.0, chan=np.array(["left", "right"]))
    np.savez(folder / "data.npz", spikes=np.ones((40, 100, 8), np.float32), behavior=np.zeros((40, 100, 2), np.float32))
    return folder


def scripts(blocks: list[Fence]) -> tuple[str, str]:
    """One Python file and one shell script of a document's blocks."""
    wanted = [block for block in blocks if block.mark not in SETUPS]
    python = "\n".join(block.code for block in wanted if block.language == "python")
    shell = "\n".join(block.code for block in wanted if block.language in ("bash", "sh"))
    return python, f"set -euo pipefail\n{shell}"


def test_the_suites_of_the_tutorial_pass_in_a_new_folder(tmp_path):
    python, _ = scripts(fences(ROOT / "docs" / "PLUGIN_TUTORIAL.md"))
    (tmp_path / "script.py").write_text(python)
    quick = "not TestInterpreters or interruption or its_type"  # an interpreter for each call takes minutes in all
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "script.py", "-k", quick]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1500:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 35


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_document_run(document, recordings, tmp_path):
    python, shell = scripts(fences(document))
    for item in recordings.iterdir():
        (tmp_path / item.name).symlink_to(item)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}
    for name, text, command in (
        ("blocks.py", python, [sys.executable, "blocks.py"]),
        ("blocks.sh", shell, ["bash", "blocks.sh"]),
    ):
        (tmp_path / name).write_text(text)
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{document.name}: {name} failed\n{done.stdout[-300:]}\n{done.stderr[-1500:]}"
