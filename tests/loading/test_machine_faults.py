"""What is wrong with a sample may be skipped; what is wrong with the machine is raised."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from neurofm_shards import create_shards_from_arrays, create_webdataset_dataloader


@pytest.fixture
def folder(tmp_path):
    create_shards_from_arrays(tmp_path, {"x": np.arange(80.0).reshape(40, 2)}, 4)
    return tmp_path


def batches(folder, **options):
    loader = create_webdataset_dataloader(folder, batch_size=5, num_workers=0, on_error="skip", **options)
    return [batch["x"].numpy() for batch in loader]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOMEM])
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_shard_that_cannot_be_opened_is_not_skipped(folder, monkeypatch, code, io):
    real = os.open

    def failing(path, *args, **options):
        if os.fspath(path).endswith("shard_000003.tar"):
            raise OSError(code, os.strerror(code), path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(OSError, match=r"shard_000003\.tar"):
        batches(folder, io=io)


def test_a_read_that_fails_is_not_skipped(folder, monkeypatch):
    real = os.preadv

    def failing(descriptor, buffers, offset):
        if offset > 3000:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(OSError, match="Input/output error"):
        batches(folder, io="pread")


def test_a_damaged_sample_is_skipped(folder):
    shard = folder / "shard_000003.tar"
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 4 * 2 - 1500] ^= 1
    found = np.concatenate(batches(folder, verify=True))
    assert len(found) == 40
    shard.write_bytes(raw)
    assert 36 <= sum(map(len, batches(folder, verify=True, shuffle=False))) < 40
