"""The generated pages of docs/reference are those of the code."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neurofm_shards.plugins import hookspecs
from neurofm_shards.plugins.entries import KINDS

DOCS = Path(__file__).resolve().parents[2] / "docs"
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("neurofm_"))


def generate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "generate.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_reference_is_up_to_date():
    done = generate(DOCS / "reference", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_or_missing_page_is_found(tmp_path):
    folder = Path(shutil.copytree(DOCS / "reference", tmp_path / "reference"))
    (folder / "hooks.md").write_text("old")
    (folder / "commands.md").unlink()
    done = generate(folder, "--check")
    assert done.returncode == 1
    assert "out of date: hooks.md, commands.md" in done.stdout
    assert generate(folder).returncode == 0
    assert generate(folder, "--check").returncode == 0


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook):
    assert inspect.getdoc(getattr(hookspecs, hook))
    assert hook in (DOCS / "PLUGIN_TUTORIAL.md").read_text(encoding="utf-8")
    assert f"## `{hook}(" in (DOCS / "reference" / "hooks.md").read_text(encoding="utf-8")


def test_every_registration_hook_has_a_specification():
    assert {f"neurofm_register_{kind}s" for kind in KINDS} <= set(HOOKS)
