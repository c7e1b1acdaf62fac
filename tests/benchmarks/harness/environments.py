"""One virtual environment per peer, so that none decides what another is installed with."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

#: The same torch everywhere.
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """A library to compare with."""

    name: str
    script: str
    packages: tuple[str, ...]


PEERS = (
    Peer("webdataset", "webdataset_peer.py", ("webdataset",)),
    Peer("MosaicML Streaming", "streaming_peer.py", ("mosaicml-streaming",)),
    Peer("LitData", "litdata_peer.py", ("litdata",)),
    Peer("Grain + ArrayRecord", "grain_peer.py", ("grain", "array_record")),
    Peer("Hugging Face datasets", "datasets_peer.py", ("datasets",)),
)


@dataclass(frozen=True)
class Environment:
    """Where a peer is installed; ``reason`` says why it is not."""

    peer: Peer
    python: str = ""
    versions: str = ""
    reason: str = ""


def prepared(peer: Peer, folder: Path) -> Environment:
    """Return the peer's environment, made where it is not there yet."""
    place = folder / peer.script.removesuffix("_peer.py")
    python = place / "bin" / "python"
    if not (place / "installed").exists():
        venv.create(place, clear=True, with_pip=True)
        constraint = place / "constraint.txt"
        constraint.write_text(f"{TORCH}\n")
        for packages in ([TORCH, "numpy"], peer.packages):
            done = _run([str(python), "-m", "pip", "install", "--quiet", "-c", str(constraint), *packages])
            if done.returncode:
                last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
                return Environment(peer, reason="pip: " + " ".join(last))
        (place / "installed").touch()
    listed = _run([str(python), "-m", "pip", "list", "--format", "freeze"]).stdout.splitlines()
    names = {name.replace("_", "-").lower() for name in peer.packages}
    found = [line for line in listed if line.partition("==")[0].replace("_", "-").lower() in names]
    return Environment(peer, str(python), ", ".join(line.replace("==", " ") for line in found))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=sys.prefix)
