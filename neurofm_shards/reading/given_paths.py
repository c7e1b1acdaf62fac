"""Check the paths given for a data set: refuse URLs, expand patterns, notice pointers of Git LFS and git-annex."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path

from neurofm_shards._wording import counted
from neurofm_shards.errors import ConfigError, FormatError, InputNotFoundError

_URL = re.compile(r"pipe:|[A-Za-z][A-Za-z0-9+.-]*://")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_PATTERN = re.compile(r"[*?]|\[[^\]]+\]|\{[^{}]*(,|\.\.)[^{}]*\}")
_BRACES = re.compile(r"\{([^{}]*)\}")
#: Names that a pattern may stand for; more is a mistake.
_MOST_NAMES = 100_000
_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = b"/annex/objects/"


def refuse_url(shard_dir: str | os.PathLike[str]) -> None:
    """Refuse a URL or a command, which other loaders stream from."""
    text = os.fspath(shard_dir)
    if _URL.match(text):
        kind = "a command whose output" if text.startswith("pipe:") else "a URL, which"
        raise ConfigError(
            f"{text!r} is {kind} would have to be streamed; samples in any order are read from files: copy the shards, "
            "or mount the storage, and give the folder"
        )


def matches(name: str, pattern: str) -> bool:
    """Return whether a file name matches a pattern, in which braces stand for ranges and choices, as in WebDataset."""
    return any(fnmatch.fnmatchcase(name, each) for each in _expanded(pattern))


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that reaches into other folders, or is a URL or a command."""
    refuse_url(pattern)
    if "/" in pattern:
        raise ConfigError(
            f"shard_pattern={pattern!r} reaches into folders below, and a data set is one folder: give that folder, or "
            "several to mix([...])"
        )


def pattern_in(path: Path) -> tuple[Path, str | None]:
    """Take a path apart that ends with a pattern, as shells and WebDataset write it: its folder, and the pattern.

    Raises
    ------
    ConfigError
        There is a pattern in the name of a folder.
    """
    if not _PATTERN.search(str(path)) or os.path.lexists(path):
        return path, None
    if os.path.isdir(path.parent):  # noqa: PTH112  (Path raises where it may not search)
        return (path.parent, path.name) if _PATTERN.search(path.name) else (path, None)
    raise ConfigError(
        f"{path} stands for files in several folders, and a data set is one folder: give that folder, or several to "
        "mix([...])"
    )


def _expanded(pattern: str) -> list[str]:
    """Expand ``{000..009}`` and ``{a,b}``; braces that hold neither stay as they are."""
    for found in _BRACES.finditer(pattern):
        choices = _choices(found[1])
        if choices:
            before, after = pattern[: found.start()], pattern[found.end() :]
            return [before + choice + rest for rest in _expanded(after) for choice in choices]
    return [pattern]


def _choices(text: str) -> list[str]:
    ends = _RANGE.fullmatch(text)
    if ends is None:
        return text.split(",") if "," in text else []
    first, last = int(ends[1]), int(ends[2])
    if last - first >= _MOST_NAMES:
        raise ConfigError(
            f"{{{text}}} stands for {counted(last - first + 1, 'name')}; at most {_MOST_NAMES:,} are taken"
        )
    return [str(number).zfill(len(ends[1])) for number in range(first, last + 1)]


def refuse_pointer(path: Path) -> None:
    """Refuse a file that stands for one which was never fetched."""
    if path.name.endswith(".tgz"):
        raise FormatError(f"{path}: a compressed tar is known by the end of its name: rename it to .tar.gz")
    if path.is_symlink() and not path.exists() and "annex/objects/" in str(path.readlink()):
        raise InputNotFoundError(_to_fetch(path, "git-annex", "git annex get"))
    if not path.is_file() or path.stat().st_size > 1024:
        return
    start = path.read_bytes()
    if start.startswith(_LFS):
        raise InputNotFoundError(_to_fetch(path, "git-lfs", "git lfs pull"))
    if start.startswith(_ANNEX):
        raise InputNotFoundError(_to_fetch(path, "git-annex", "git annex get"))


def _to_fetch(path: Path, tool: str, command: str) -> str:
    return f"{path} is a pointer of {tool}, and the file it stands for is not here: run `{command}` in its folder"
