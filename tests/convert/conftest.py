"""A source without any plugin installed: files that say in JSON which samples they give."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from neurofm_shards.plugins.host import PLUGIN_FILES
from neurofm_shards.plugins.registry import registry

sys.path.insert(0, str(Path(__file__).parent))  # workers import what tests call in them
TOY_PLUGIN = Path(__file__).with_name("toy_plugin.py")


@pytest.fixture
def toy(monkeypatch):
    """The toy plugin's module, registered in this process and in workers."""
    monkeypatch.setenv(PLUGIN_FILES, str(TOY_PLUGIN))
    registry.cache_clear()
    registry()
    yield sys.modules["neurofm_shards_plugin_toy_plugin"]
    registry.cache_clear()


@pytest.fixture
def toys(tmp_path, toy):
    """Make toy files: ``toys(a={"n": 5}, b={"n": 7})`` returns their paths."""

    def make(**said):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        for i, (name, content) in enumerate(said.items()):
            (folder / f"{name}.toy").write_text(json.dumps({"seed": i, **content}))
        return [str(folder / f"{name}.toy") for name in said]

    return make


def tree(folder):
    """Every file of a data set with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(name="tree")
def _tree():
    return tree
