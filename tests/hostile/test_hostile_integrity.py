"""What no checksum vouches for is never delivered, and nothing in a data set makes the program import anything."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import ShardDataset, WebDatasetLoader, create_webdataset_dataloader
from neurofm_shards.errors import FormatError, MissingPluginError, NeurofmShardsError
from neurofm_shards.reading.collection import ShardCollection
from neurofm_shards.writing.dataset_writer import WebDatasetWriter

VALUES = np.arange(12.0).reshape(6, 2)


@pytest.fixture
def folder(tmp_path):
    with WebDatasetWriter(tmp_path / "data", shard_size=6, overwrite=True) as writer:
        for row in VALUES:
            writer.write_sample({"x": row})
    return tmp_path / "data"


def flipped(folder: Path, step: int, first: int = 0):
    """Flip every so-manieth byte in turn."""
    shard = folder / "shard_000000.tar"
    whole = shard.read_bytes()
    for at in range(first, len(whole), step):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        shard.write_bytes(changed)
        yield at
    shard.write_bytes(whole)


def rows_of(folder: Path) -> np.ndarray:
    with ShardCollection.open(folder, verify=True) as data:
        return data.gather(np.arange(6), ["x"])["x"]


@pytest.mark.parametrize("step", [73, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flipped_byte_reaches_anyone(folder, step):
    refused = 0
    for at in flipped(folder, step):
        try:
            found = rows_of(folder)
        except FormatError:
            refused += 1
            continue
        np.testing.assert_array_equal(found, VALUES, err_msg=f"byte {at}")
    assert refused > 50


def delivered(folder: Path, way: str, on_error: str) -> list[list[float]]:
    if way == "dataset":
        return [row["x"].tolist() for row in ShardDataset(folder, verify=True)]
    if way == "loader":
        loader = WebDatasetLoader(folder, shuffle=False, verify=True, on_error=on_error)
        return [sample["x"].tolist() for sample in loader]
    loader = create_webdataset_dataloader(
        folder, 2, 0, shuffle=False, pin_memory=False, verify=True, on_error=on_error
    )  # fmt: skip
    return [row for batch in loader for row in batch["x"].tolist()]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("way", ["loader", "dataloader", "dataset"])
def test_every_way_of_loading_checks(folder, way, on_error):
    sound, refused, messages = VALUES.tolist(), 0, []
    for at in flipped(folder, 1021, 100):
        try:
            rows = delivered(folder, way, on_error)
        except FormatError as error:
            refused += 1
            messages.append(str(error))
            continue
        assert [row for row in rows if row not in sound] == [], f"byte {at}"
        refused += len(rows) < 6
    assert refused > 5
    assert on_error == "skip" or [message for message in messages if "shard_000000.tar" not in message] == []


@pytest.mark.parametrize(("what", "change"), [
    ("codec", lambda m: m["columns"][0].update(codec="stamp", distribution="stranger-full")),
    ("compression", lambda m: m.update(compression="deflate", compression_distribution="stranger-full")),
])  # fmt: skip
def test_what_is_missing_is_named_with_its_distribution(folder, what, change):
    manifest = json.loads((folder / "dataset_metadata.json").read_text())
    change(manifest)
    if what == "compression":
        manifest["shards"][0]["shard_name"] = "shard_000000.tar.zz"
        (folder / "shard_000000.tar").rename(folder / "shard_000000.tar.zz")
    (folder / "dataset_metadata.json").write_text(json.dumps(manifest))
    for idx in (folder / ".neurofm").glob("*"):
        idx.unlink()
    told = subprocess.run(
        [sys.executable, "-m", "neurofm_shards", "info", str(folder)], capture_output=True, text=True, check=False
    )
    assert "stranger-full" in told.stdout + told.stderr
    assert "Traceback" not in told.stderr
    if what == "compression":
        with pytest.raises(MissingPluginError, match=r"(?s)'deflate'.*'stranger-full'"):
            ShardDataset(folder)[0]


WATCHED = """
import sys, warnings
warnings.simplefilter("ignore")
from neurofm_shards import ShardDataset, WebDatasetLoader, create_webdataset_dataloader
from neurofm_shards.cli.main import run
before, seen = set(), []
for folder in (sys.argv[1], sys.argv[2]):
    if folder == sys.argv[2]:
        before = set(sys.modules)
        sys.addaudithook(lambda event, args: seen.append((event, str(args)[:100])) if event in (
            "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "urllib.Request") else None)
    for read in (
        lambda: [dict(sample) for sample in WebDatasetLoader(folder, shuffle=False)],
        lambda: [batch["metadata"][0] for batch in create_webdataset_dataloader(folder, 2, 0, pin_memory=False)],
        lambda: [ShardDataset(folder)[0]],
        lambda: run(["validate", folder]), lambda: run(["info", folder]),
    ):
        try:
            read()
        except Exception as error:
            if not type(error).__module__.startswith("neurofm_shards"):
                raise
print("NEW", sorted(name for name in set(sys.modules) - before if "evil" in name or "this_is" in name), seen)
"""


def test_nothing_in_a_data_set_makes_the_program_import_or_install_anything(folder, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with WebDatasetWriter(tmp_path / "evil") as writer:
            for row in VALUES:
                writer.write_sample({"x": row})
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')\n")
    place = tmp_path / "evil" / "dataset_metadata.json"
    manifest = json.loads(place.read_text())
    manifest["columns"][0].update(codec="evil_module:Codec", distribution="evil_module")
    manifest.update(compression="evil_module", compression_distribution="evil_module", software={"evil_module": "1"})
    manifest["config"] = {"transforms": [{"kind": "evil_module:run"}], "plugins": ["evil_module"]}
    place.write_text(json.dumps(manifest))
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(folder), str(tmp_path / "evil")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "NEW [] []"


def test_a_file_that_shrinks_is_an_error_with_plain_reads(folder):
    data = ShardDataset(folder, io="pread", verify=True)
    np.testing.assert_array_equal(np.asarray(data[0]["x"]), VALUES[0])
    with (folder / "shard_000000.tar").open("r+b") as file:
        file.truncate(1024)
    with pytest.raises(NeurofmShardsError, match="ends at byte"):
        _ = data[5]
