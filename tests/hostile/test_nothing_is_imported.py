"""Nothing in a data set makes the program import, install or run anything, whatever names it holds."""

import importlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter

#: Reads a folder in every way, and prints what the interpreter was asked to do beyond reading files.
READER = """
import contextlib, io, json, sys, warnings
warnings.simplefilter("ignore")
events = []
STARTS = ("subprocess.", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.spawn", "socket.", "urllib.")
def watch(event, args):
    if event.startswith(STARTS) or (event == "import" and "evil" in str(args[0])):
        events.append(f"{event} {args!r:.200}")
from neurofm_shards import ShardDataset, WebDatasetLoader, create_webdataset_dataloader
from neurofm_shards.cli.main import run
from neurofm_shards.errors import NeurofmShardsError
sound, folder, changed = sys.argv[1:4]
def ways(folder, changes):
    yield lambda: [dict(sample) for sample in WebDatasetLoader(folder, shuffle=False)]
    yield lambda: list(create_webdataset_dataloader(folder, 2, 0, shuffle=False))
    yield lambda: [ShardDataset(folder)[i] for i in range(len(ShardDataset(folder)))]
    for words in (["validate", folder], ["info", folder, "--json"], ["plugins", "list"]):
        yield lambda words=words: run(words)
    for words in (["drop", changes, "--where", "i == 1"], ["index", changes], ["repair", changes]):
        yield lambda words=words: run(words)
def everything(*folders):
    for way in ways(*folders):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            with contextlib.suppress(NeurofmShardsError):
                way()
everything(sound, sound)
sys.addaudithook(watch)
everything(folder, changed)
print(json.dumps([events, sorted(name for name in sys.modules if "evil" in name)]))
"""


class Gadget:
    def __reduce__(self):
        return importlib.import_module, ("evil_module",)


def make(folder):
    with WebDatasetWriter(folder, shard_size=4) as writer:
        for i in range(8):
            writer.write_sample({"x": np.full(3, i, np.float32)}, metadata={"i": i, "evil": "evil_module:attr"})


def changed_manifest(folder, change):
    path = folder / "dataset_metadata.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


CHANGES = {
    "nothing": lambda _: None,
    "codec": lambda values: values["columns"][0].update(codec="evil_module:attr"),
    "every text of a column": lambda values: values["columns"][0].update(
        {
            name: "evil_module"
            for name, value in values["columns"][0].items()
            if isinstance(value, str) and name != "name"
        }
    ),
    "compression": lambda values: values.update(compression="evil_module", compression_distribution="evil_module"),
    "config": lambda values: values.update(
        config={
            "format": "evil_module:attr",
            "source": {"kind": "evil_module:attr"},
            "transforms": [{"kind": "evil_module:a"}],
        }
    ),
    "software and sources": lambda values: values.update(
        software={"evil_module": "1.0"},
        sources=[{"files": ["evil_module"], "format": "evil_module", "fingerprint": "x"}],
    ),
}


@pytest.fixture
def read(tmp_path):
    """Read a folder beside a module whose import would be seen."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/evil_module.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\nattr = a = print\n")
    make(tmp_path / "sound")

    def start(folder):
        shutil.copytree(folder, tmp_path / "changed")
        path = os.pathsep.join(filter(None, (str(tmp_path / "site"), os.environ.get("PYTHONPATH"))))
        words = [sys.executable, "-c", READER, *map(str, (tmp_path / "sound", folder, tmp_path / "changed"))]
        done = subprocess.run(
            words,
            env={**os.environ, "PYTHONPATH": path},
            cwd=tmp_path / "site",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == [[], []]
        assert not (tmp_path / "mark").exists()

    return start


@pytest.mark.parametrize("change", CHANGES)
def test_names_in_a_manifest_are_names_and_no_more(tmp_path, read, change):
    make(tmp_path / "data")
    changed_manifest(tmp_path / "data", CHANGES[change])
    read(tmp_path / "data")


def test_neither_members_nor_keys_nor_metadata_lead_to_a_module(tmp_path, read):
    (tmp_path / "data").mkdir()
    payloads = {
        "s1.x.pyd": pickle.dumps(Gadget()),
        "s1.metadata.json": b'{"__class__": "evil_module.attr", "py/object": "evil_module.attr", "i": 1}',
        "evil_module.x.pyd": pickle.dumps(np.ones(3)),
        "evil_module.y.evil_module": b"import evil_module",
        "s3.x.pkl": pickle.dumps(Gadget()),
        "s4.x.pth": pickle.dumps(Gadget()),
        "s5.x.npy": b"\x93NUMPY\x01\x00\x46\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(69)
        + b"\n",
    }
    with tarfile.open(tmp_path / "data/shard_000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, payload in payloads.items():
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    for name in ("evil_module.py", "sitecustomize.py", "conftest.py", "pyproject.toml", "__init__.py"):
        (tmp_path / "data" / name).write_text("import evil_module")
    (tmp_path / "data/.neurofm").mkdir()
    (tmp_path / "data/.neurofm/plugin.py").write_text("import evil_module")
    read(tmp_path / "data")
