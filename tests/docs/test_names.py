"""Documents name what there is: modules, files, rooms and tests."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "neurofm_shards"
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}


def exists(parts):
    """Whether there is such a module, or a name in it."""
    path = PACKAGE.joinpath(*parts)
    if path.is_dir() or path.with_suffix(".py").exists():
        return True
    module = path.parent.with_suffix(".py")
    return module.exists() and re.search(
        rf"^(class|def) {parts[-1]}\b", module.read_text(encoding="utf-8"), re.MULTILINE
    )


NAMED = sorted({name for name in re.findall(r"`(\w+(?:\.\w+)+)`", TEXT) if name.split(".")[0] in ROOMS} - {"codecs.py"})


@pytest.mark.parametrize("name", NAMED)
def test_modules_that_are_named_exist(name):
    assert exists(name.split("."))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(\w+(?:/\w+)+\.\w+)`", TEXT))))
def test_files_that_are_named_exist(path):
    assert (PACKAGE / path).exists()


def test_every_room_is_described():
    rooms = set(re.findall(r"`(\w+)/`", TEXT))
    assert rooms == ROOMS


def test_where_to_start_reading_exists():
    for room, start in re.findall(r"^\| `([\w/]+)/`(?:, `\w+/`)? \|[^|]*\| `(\w+\.py)`", TEXT, re.MULTILINE):
        assert (PACKAGE / room / start).exists(), (room, start)


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TESTS = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "plugins").glob("*/tests/test_*.py")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(document):
    defined = {path.stem for path in TESTS}
    defined |= {name for path in TESTS for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    text = document.read_text(encoding="utf-8")
    assert set(re.findall(r"`(test_\w+)", text)) <= defined
    assert [path for path in re.findall(r"\btests/[\w/]+\.py", text) if not (ROOT / path).exists()] == []
