"""The source passes the suite that every source has to pass, on a file with units, LFP, behaviour and trials."""

from __future__ import annotations

from pathlib import Path

from neurofm_shards.testing import SourceConformance
from neurofm_shards_nwb.demo import write_demo_session

_made: dict[str, bytes] = {}


class TestNwbSource(SourceConformance):
    name = "nwb"

    def make_input(self, folder: Path) -> list[Path]:
        path = folder / "session.nwb"
        if "demo" not in _made:
            write_demo_session(path, seconds=12, seed=3, units=5, channels=2)
            _made["demo"] = path.read_bytes()
        path.write_bytes(_made["demo"])
        return [path]
