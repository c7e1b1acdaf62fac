"""What tests of several rooms share: recordings, shards written by others, a source without any plugin."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from neurofm_shards.plugins.host import PLUGIN_FILES
from neurofm_shards.plugins.registry import registry
from neurofm_shards.reading import frames_cache

TOY_PLUGIN = Path(__file__).parent / "plugins" / "toy_plugin.py"

# Shared machines pause: how long an example takes is not what these tests are about.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
# A shell that starts the tests in the background has them ignore Ctrl-C, and the programs that they start as well.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings (``NEUROFM_SHARDS_DATA``, else ``../shared/data`` from the project's root)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NEUROFM_SHARDS_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}: set NEUROFM_SHARDS_DATA to the folder that holds them")
    return folder


def npy(array, version=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), version=version)
    return stream.getvalue()


def write_tar(path, samples, mode="w"):
    """Write (key, {member name: bytes}) pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for name, data in members.items():
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


class Foreign:
    """Writes folders of shards as others would."""

    npy = staticmethod(npy)
    write_tar = staticmethod(write_tar)

    def folder(self, folder, arrays, num_shards, suffix="", order="C"):
        """Write sample i of every array, cut into shards; keys are sample_000000001 and on."""
        count = len(next(iter(arrays.values())))
        for shard, rows in enumerate(np.array_split(np.arange(count), num_shards)):
            samples = [
                (
                    f"sample_{row + 1:09d}",
                    {f"{name}.npy": npy(np.asarray(values[row], order=order)) for name, values in arrays.items()}
                    | {"metadata.json": json.dumps({"row": row}).encode()},
                )
                for row in rows.tolist()
            ]
            ending = f".{suffix}" if suffix else ""
            write_tar(folder / f"shard_{shard:06d}.tar{ending}", samples, f"w:{suffix}" if suffix else "w")
        return folder


@pytest.fixture(scope="session")
def foreign():
    """Writes shards without this program."""
    return Foreign()


@pytest.fixture
def decoded_frames(monkeypatch):
    """Every frame of a compressed shard that is decoded in this process, as it is decoded."""
    found, decode = [], frames_cache._Frames.decode
    monkeypatch.setattr(frames_cache._Frames, "decode", lambda self, frame: (decode(self, frame), found.append(frame)))
    return found


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
