"""What the tests of the read side share: shards written by tarfile and numpy alone."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest


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
