"""Who and what a recording is: ids with fall-backs, and a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.types import Problem


def ids_of(path: str, facts: Mapping[str, Any]) -> tuple[str, str, list[Problem]]:
    """Return session id and subject id: the file's own, else its identifier, else its name.

    Returns
    -------
    (str, str, list of Problem)
        Session id, subject id, and a note on each fall-back.
    """
    name = Path(path).name.removesuffix(".zarr").removesuffix(".nwb")
    fallback, source = (str(facts["identifier"]), "identifier") if facts.get("identifier") else (name, "file name")
    problems = [
        Problem(where, "empty or missing", f"the file's {source} {fallback!r} is used instead", "info")
        for key, where in (("session_id", "general/session_id"), ("subject_id", "general/subject/subject_id"))
        if not facts.get(key)
    ]
    return str(facts.get("session_id") or fallback), str(facts.get("subject_id") or fallback), problems


def fingerprint(path: str, linked: list[str]) -> str:
    """Return what identifies the content of a file (and of the files it links to), wherever it lies."""
    return file_fingerprint([path, *linked])


def folder_fingerprint(path: str) -> str:
    """Return what identifies the content of a Zarr store: names and sizes of all files, content of small ones."""
    digest = xxhash.xxh3_128()
    root = Path(path)
    digest.update(root.name.encode())
    for file in sorted(root.rglob("*")):
        if file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.relative_to(root).as_posix()}\0{size}\0".encode())
            with file.open("rb") as content:
                digest.update(content.read(4096))
    return f"xxh3-{digest.hexdigest()}"
