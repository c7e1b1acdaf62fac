"""Once the manifest stands nothing is discarded, whatever interrupts what follows; before, finished shards stay."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter, create_shards_from_arrays
from neurofm_shards.errors import EncodeError
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.reading.collection import ShardCollection

CALLS = ("replace", "rename", "unlink", "rmdir", "fsync", "close", "open", "fchmod")


class Interruptions:
    """Raises at one of the calls that a finishing writer makes, counted from the manifest's renaming on."""

    def __init__(self, monkeypatch, error, at):
        self.error, self.at = error, at
        self.count = 0
        self.armed = False
        self.manifest_stands = False
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, real):
        def call(*args, **options):
            is_manifest = name == "replace" and str(args[1]).endswith("dataset_metadata.json")
            if self.manifest_stands and self.armed:
                self.count += 1
                if self.count == self.at:
                    self.armed = False
                    raise self.error
            result = real(*args, **options)
            if is_manifest:
                self.manifest_stands = True
                if self.at == 0 and self.armed:
                    self.armed = False
                    raise self.error
            return result

        return call


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("way", ["finalize", "with", "arrays"])
def test_whatever_fails_after_the_manifest_stands_deletes_nothing(tmp_path, monkeypatch, error, at, way):
    data = np.arange(24.0).reshape(12, 2)
    with monkeypatch.context() as patch:
        interruptions = Interruptions(patch, error, at)
        interruptions.armed = True
        try:
            if way == "arrays":
                create_shards_from_arrays(tmp_path / "out", {"x": data}, 5)
            elif way == "with":
                with WebDatasetWriter(tmp_path / "out", 5) as writer:
                    for row in data:
                        writer.write_sample({"x": row})
            else:
                writer = WebDatasetWriter(tmp_path / "out", 5)
                for row in data:
                    writer.write_sample({"x": row})
                try:
                    writer.finalize()
                finally:
                    interruptions.armed = False
                    writer.abort()
        except type(error):
            pass
        interruptions.armed = False
    assert interruptions.manifest_stands
    assert validate_dataset(tmp_path / "out").ok
    with ShardCollection.open(tmp_path / "out") as found:
        np.testing.assert_array_equal(found.gather(np.arange(12))["x"], data)
    with pytest.warns(UserWarning, match="already holds"):  # nobody is locked out
        create_shards_from_arrays(tmp_path / "out", {"x": data + 1}, 5)
    assert validate_dataset(tmp_path / "out").num_samples == 24


@pytest.mark.parametrize("codec", ["npy", "pyd"])
@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_a_type_that_no_reader_takes_is_refused_when_it_is_written(tmp_path, codec, dtype):
    with WebDatasetWriter(tmp_path, 2, codec=codec) as writer:
        with pytest.raises(EncodeError, match="float64|complex128"):
            writer.write_sample({"x": np.zeros(3, dtype)})
        for _ in range(4):
            writer.write_sample({"x": np.zeros(3)})
    assert validate_dataset(tmp_path).num_samples == 4


@pytest.mark.parametrize("codec", ["npy", "pyd"])
def test_columns_of_a_type_that_no_reader_takes_are_refused(tmp_path, codec):
    with pytest.raises(EncodeError, match="float64"):
        create_shards_from_arrays(tmp_path / "out", {"x": np.zeros((20, 3), np.longdouble)}, codec=codec)
    assert not list(tmp_path.rglob("*.tar"))


def test_one_writer_may_be_used_by_many_threads(tmp_path):
    writer = WebDatasetWriter(tmp_path, 7)
    errors = []

    def work(number):
        try:
            for i in range(50):
                writer.write_sample({"x": np.full(40, number * 1000 + i)}, metadata={"number": number, "i": i})
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert writer.finalize()["total_samples"] == 200
    assert validate_dataset(tmp_path).ok
    with ShardCollection.open(tmp_path) as found:
        values = found.gather(np.arange(200))["x"]
        said = [m["number"] * 1000 + m["i"] for m in found.metadata(np.arange(200))]
    np.testing.assert_array_equal(values, np.repeat(np.array(said)[:, None], 40, axis=1))
    assert sorted(said) == sorted(number * 1000 + i for number in range(4) for i in range(50))


def test_finished_shards_are_not_deleted_because_of_a_bad_entry(tmp_path, monkeypatch):
    """Whatever is wrong with the manifest, the shards are whole, and another try or a repair can use them."""
    from neurofm_shards.maintenance.repair import repair
    from neurofm_shards.writing import writer_session

    writer = WebDatasetWriter(tmp_path, 2)
    for _ in range(6):
        writer.write_sample({"x": np.zeros(3)})

    def refuses(*args, **options):
        raise ValueError("a bad entry")

    with monkeypatch.context() as patch:
        patch.setattr(writer_session, "dataset_manifest", refuses)
        with pytest.raises(ValueError, match="a bad entry"):
            writer.finalize()
    assert len(list(tmp_path.glob("*.tar"))) == 3
    assert writer.finalize()["total_samples"] == 6
    assert repair(tmp_path).ok


def test_an_abandoned_writer_takes_its_shards_back(tmp_path):
    writer = WebDatasetWriter(tmp_path / "out", 2)
    for _ in range(6):
        writer.write_sample({"x": np.zeros(3)})
    writer.abort()
    assert not (tmp_path / "out").exists()
