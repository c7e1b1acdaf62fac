"""``cat`` of the shards: what the disk gives."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serve import Contender, serve
from source import Source


class Cat(Contender):
    """Has no batches: nothing of it is checked."""

    def __init__(self) -> None:
        self._files: list[str] = []

    def write(self, source: Source, folder: Path, **_: Any) -> None:
        """Refuse."""
        raise ValueError(f"cat does not write {folder}")

    def open(self, folder: Path, **_: Any) -> None:
        """Note the files."""
        self._files = sorted(map(str, folder.glob("shard_*.tar")))

    def batches(self) -> Iterable[Mapping[str, Any]]:
        """Read all files."""
        with Path("/dev/null").open("w") as nowhere:
            subprocess.run(["cat", *self._files], stdout=nowhere, check=True)
        return ()


if __name__ == "__main__":
    serve(Cat())
