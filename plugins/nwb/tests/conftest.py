"""Synthetic NWB files, written with pynwb; each says in its session description that it is synthetic."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings (``NEUROFM_SHARDS_DATA``, else ``../shared/data`` from the project's root)."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("NEUROFM_SHARDS_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}: set NEUROFM_SHARDS_DATA to the folder that holds them")
    return folder


@pytest.fixture
def write_nwb(tmp_path: Path) -> Callable[..., Path]:
    """Write a synthetic file: ``write_nwb(fill)`` calls ``fill(nwbfile)`` on an empty one and saves it."""
    from pynwb import NWBHDF5IO, NWBFile

    def write(fill: Callable[[NWBFile], None], name: str = "synthetic.nwb", **facts: object) -> Path:
        told = {"identifier": "synthetic-1", "session_id": "s1", **facts}
        nwbfile = NWBFile(session_description="SYNTHETIC: made by a test", session_start_time=START, **told)
        fill(nwbfile)
        path = tmp_path / name
        with NWBHDF5IO(path, "w") as io:
            io.write(nwbfile)
        return path

    return write
