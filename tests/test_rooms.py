"""Rooms import downwards only, and heavy libraries stay where they belong."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "neurofm_shards"

#: From the bottom up; a room may import those before it, and itself.
ROOMS = (
    ("errors", "types", "_version"),
    ("plugins",),
    ("blocks", "expressions"),
    ("codecs", "compression"),
    ("shards",),
    ("recordings",),
    ("loading",),
    ("convert",),
    ("demo",),
    ("cli", "__main__"),
    ("testing",),
)
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}

#: Imports upwards that are made when they are used, so that plugin authors find everything in one place.
LATE = {
    ("plugins/interfaces.py", "blocks"),
    ("plugins/interfaces.py", "recordings"),
}

#: Library to the rooms that may import it.
HEAVY = {
    "torch": {"loading", "demo"},
    "scipy": {"recordings"},
    "h5py": set(),
    "pynwb": set(),
    "pandas": set(),
    "hdmf": set(),
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        room = name.split("/")[0].removesuffix(".py")
        if room != "__init__":
            yield name, room, ast.parse(path.read_text())


def imported(tree):
    """Every imported module with its line; names under TYPE_CHECKING count too, for they say who knows whom."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            if node.module == "neurofm_shards":
                yield from ((f"neurofm_shards.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize(("name", "room", "tree"), [pytest.param(*item, id=item[0]) for item in modules()])
def test_a_module_imports_its_own_room_and_those_below(name, room, tree):
    upwards = []
    for target, line in imported(tree):
        parts = target.split(".")
        if parts[0] == "neurofm_shards" and len(parts) > 1 and parts[1] in LEVEL:
            if LEVEL[parts[1]] > LEVEL[room] and (name, parts[1]) not in LATE:
                upwards.append(f"{name}:{line} imports {target}")
        elif parts[0] in HEAVY and room not in HEAVY[parts[0]]:
            upwards.append(f"{name}:{line} imports {parts[0]}")
    assert not upwards


def test_every_room_has_its_place():
    assert {room for _, room, _ in modules()} <= set(LEVEL)
