"""Every example runs: scripts as scripts, notebooks cell by cell."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.plugins

#: What examples need beside the package.
FRAMEWORKS = {"accelerate": "accelerate", "lightning": "lightning", "ray": "ray", "trainer": "transformers"}
FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example, tmp_path):
    needed = FRAMEWORKS.get(example.name.partition("_")[0])
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: tox -e frameworks runs this")
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


def _kinds(cell):
    return {kind for output in cell.outputs for kind in output.get("data", {})}


@pytest.mark.parametrize("notebook", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs_and_shows_tables_and_pictures(notebook, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: tox -e together runs this")
    nbformat = pytest.importorskip("nbformat")
    cells = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in cells.cells), "outputs are not kept: they would go stale"
    client = nbclient.NotebookClient(cells, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = {cell.source.strip().splitlines()[-1]: _kinds(cell) for cell in cells.cells if cell.cell_type == "code"}
    for last, kinds in shown.items():
        assert ("image/png" in kinds) == (".plot(" in last), last
    tables = {last for last, kinds in shown.items() if "text/html" in kinds}
    assert {"recording", "dataset", 'ShardedDatasetInfo(folder / "shards")'} <= tables
    assert any(last.startswith("split(") for last in tables)
