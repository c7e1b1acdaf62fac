"""The loops of frameworks: the batches of a plain loop, samples divided once, states that are saved and loaded.

`tox -e frameworks` installs what these tests need.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurofm_shards import ShardDataset, create_shards_from_arrays, create_webdataset_dataloader

# Their own deprecations and advice are no findings here.
pytestmark = pytest.mark.filterwarnings("ignore")
BATCH, STEPS = 8, 13
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def rows_of(batch):
    return [each["row"] for each in batch["metadata"]]


def make(written, num_workers=0):
    return create_webdataset_dataloader(written[0], BATCH, num_workers, rank=0, world_size=1)


@pytest.fixture
def expected(written):
    """Three epochs of a plain loop."""
    loader = make(written)
    return [rows_of(batch) for _ in range(3) for batch in loader]


def lightning_trainer(folder, **options):
    lightning = pytest.importorskip("lightning")
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    # named, because Lightning looks for it with mpi4py otherwise, which raises where there is no MPI
    alone = importlib.import_module("lightning.pytorch.plugins.environments").LightningEnvironment()
    return lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, plugins=[alone], **dict.fromkeys(quiet, False), **options
    )


def module_and_trainer(folder, save_at=None):
    """A module that notes its batches, and a trainer for three epochs that saves a checkpoint after some step."""
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed: pip install lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(20, 1)
            self.seen = []
            self.validated = []

        def training_step(self, batch, _):
            self.seen.append(rows_of(batch["ours"][0] if "ours" in batch else batch))
            return self.linear.weight.square().mean()

        def on_validation_start(self):
            self.validated.append(sum(map(len, self.seen)))

        def validation_step(self, batch, _):
            pass

        def predict_step(self, batch, _):
            return rows_of(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-6)

        def on_train_batch_end(self, *_):
            if len(self.seen) == save_at:
                self.trainer.save_checkpoint(folder / "run.ckpt")

    return Module(), lightning_trainer(folder, max_epochs=3)


@pytest.mark.parametrize("stop", [5, 12, 13, 14, 38])
def test_lightning_continues_from_its_checkpoint(written, expected, tmp_path, stop):
    module, trainer = module_and_trainer(tmp_path, stop)
    trainer.fit(module, make(written, 2))
    assert module.seen == expected
    resumed, trainer = module_and_trainer(tmp_path)
    trainer.fit(resumed, make(written), ckpt_path=tmp_path / "run.ckpt")
    assert resumed.seen == expected[stop:]


@pytest.mark.parametrize("stop", [5, 13, 14])
@pytest.mark.parametrize("size", [3, 20])
def test_lightning_continues_with_more_or_fewer_batches_to_come(written, expected, tmp_path, stop, size):
    """Another batch size shares an epoch as another number of ranks does, seen from one of them."""
    module, trainer = module_and_trainer(tmp_path, stop)
    trainer.fit(module, make(written, 2))
    loader = create_webdataset_dataloader(written[0], size, 0, rank=0, world_size=1)
    resumed, trainer = module_and_trainer(tmp_path)
    trainer.fit(resumed, {"ours": [loader]}, make(written), ckpt_path=tmp_path / "run.ckpt")
    numbers = [list(itertools.chain(*batches)) for batches in (expected, expected[stop:], resumed.seen)]
    assert numbers[2] == numbers[1]
    epoch = len(numbers[0]) // 3
    behind = len(numbers[0]) - len(numbers[1])
    assert resumed.validated == [end - behind for end in (epoch, 2 * epoch, 3 * epoch) if end > behind]
    assert trainer.num_training_batches == len(loader)


@pytest.mark.parametrize("stop", [1, 5, 12])
def test_accelerate_leaves_the_loader_alone_and_saves_its_state(written, expected, tmp_path, stop):
    accelerate = pytest.importorskip("accelerate", reason="Accelerate is not installed: pip install accelerate")
    found = []
    for number in range(2):
        accelerator = accelerate.Accelerator(cpu=True)
        made = make(written, 2 - number)
        loader = accelerator.prepare(made)
        assert loader is made
        if number:
            accelerator.load_state(tmp_path / "run")
        with contextlib.closing(iter(loader)) as batches:
            for batch in batches:
                found.append(rows_of(batch))
                if len(found) == stop and not number:
                    break
        accelerator.save_state(tmp_path / "run")
    assert found == expected[:STEPS]
    assert json.loads(json.dumps(made.state_dict()))["epoch"] == 1


@pytest.mark.parametrize(
    ("name", "samples", "ways"), [("accelerate", 100, 2), ("trainer", 96, 1), ("lightning", 96, 1), ("ray", 96, 1)]
)
def test_two_ranks_of_an_example_together_see_every_sample_once(name, samples, ways, tmp_path):
    pytest.importorskip({"trainer": "transformers"}.get(name, name))
    command = [sys.executable, EXAMPLES / f"{name}_training.py"]
    folder = {} if name == "ray" else {"TMPDIR": str(tmp_path)}  # whose sockets need short paths
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = {}
    for rank, way, numbers in re.findall(r"rank (\d), ([^:]+): (\[[^]]*\])", done.stdout):
        seen.setdefault(way, {})[rank] = json.loads(numbers)
    assert len(seen) == ways
    for of_ranks in seen.values():
        assert set(of_ranks) == {"0", "1"}
        assert len(of_ranks["0"]) == len(of_ranks["1"])
        assert sorted({*of_ranks["0"], *of_ranks["1"]}) == list(range(samples))
        assert len(of_ranks["0"]) <= samples // 2 + 16  # the last batch may be padded


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Write 96 samples into 4 shards."""
    folder = tmp_path_factory.mktemp("numbered")
    data = {"x": np.ones((96, 4), np.float32), "number": np.arange(96)}
    create_shards_from_arrays(folder, data, shard_size=24)
    return folder


def run_ranks(world_size, name, *arguments):
    """Run resumed_loops.py on so many ranks, as torchrun does (Ray Train starts its own); return their samples."""
    if name == "ray":
        return samples_of(
            [subprocess.Popen(loops(name, *arguments), env=os.environ | {"WORLD_SIZE": str(world_size)}, **PIPED)]
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size), "TORCHELASTIC_RUN_ID": "none"}
    shared |= {"GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    own = [os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
    return samples_of([subprocess.Popen(loops(name, *arguments), env=each, **PIPED) for each in own])


PIPED = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def loops(*arguments):
    return [sys.executable, Path(__file__).with_name("resumed_loops.py"), *map(str, arguments)]


def samples_of(processes):
    said = [each.communicate(timeout=300) for each in processes]
    assert [each.returncode for each in processes] == [0] * len(processes), said[0][1][-3000:]
    return [json.loads(numbers) for out, _ in said for numbers in re.findall(r"samples: (.*)", out)]


@pytest.mark.parametrize(
    ("name", "module"),
    [("ddp", "torch"), ("accelerate",) * 2, ("lightning",) * 2, ("trainer", "transformers"), ("ray",) * 2],
)
@pytest.mark.parametrize("later", [1, 3])
def test_a_run_of_two_ranks_goes_on_with_another_number(numbered, tmp_path, name, module, later):
    pytest.importorskip(module)
    before = run_ranks(2, name, numbered, tmp_path / "checkpoint", 3)
    assert [len(of_rank) for of_rank in before] == [24, 24]
    after = run_ranks(later, name, numbered, tmp_path / "checkpoint", 0)
    assert {len(of_rank) for of_rank in after} == {48 // later}
    assert sorted(itertools.chain(*before, *after)) == list(range(96))


TWICE = """
import sys, warnings
from accelerate import Accelerator, debug_launcher
from torch.utils.data import DataLoader
from neurofm_shards import WebDatasetLoader

def count():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        samples = WebDatasetLoader(sys.argv[1], metadata=False)
        loader = Accelerator(cpu=True).prepare(DataLoader(samples, batch_size=8, num_workers=int(sys.argv[2])))
        number = sum(len(batch["x"]) for batch in loader)
    print("twice" if any("divides that part once more" in str(each.message) for each in said) else "no word", number)

debug_launcher(count, num_processes=2)
"""


def test_samples_that_are_divided_twice_are_warned_of(written, tmp_path):
    pytest.importorskip("accelerate")
    command = [sys.executable, "-c", TWICE, str(written[0]), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "twice" in done.stdout


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_predicts_with_the_loaders_batches(written, expected, tmp_path, num_workers):
    module, _ = module_and_trainer(tmp_path)
    assert lightning_trainer(tmp_path).predict(module, make(written, num_workers)) == expected[:STEPS]


def test_lightning_overfits_the_same_batches_in_every_epoch(written, tmp_path):
    module, _ = module_and_trainer(tmp_path)
    lightning_trainer(tmp_path, overfit_batches=3, max_epochs=3).fit(module, make(written))
    assert module.seen[:3] == module.seen[3:6] == module.seen[6:]
    assert module.seen[0] == list(range(8))


def test_a_loader_is_rebuilt_from_its_attributes(written, expected):
    loader = make(written)
    attributes = {"dataset": loader.dataset, "setup": loader.setup, "batch_sampler": loader.batch_sampler}
    again = type(loader)(**attributes, num_workers=loader.num_workers, collate_fn=loader.collate_fn)
    assert [rows_of(batch) for batch in again] == expected[:STEPS]
    assert again.epoch == loader.epoch
    backwards = [[102, 0, 7], [5]]
    other = type(loader)(loader.dataset, loader.setup, backwards)
    assert len(other) == 2
    assert [rows_of(batch) for batch in other] == backwards


def test_torchs_own_loader_makes_the_same_batches_of_the_parts(written):
    loader = make(written)
    plain = torch.utils.data.DataLoader(
        loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn
    )
    assert isinstance(loader.dataset, ShardDataset)
    for ours, theirs in zip(make(written), plain, strict=True):
        assert rows_of(ours) == rows_of(theirs)
        assert torch.equal(ours["x"], theirs["x"])


def test_a_second_loader_in_the_same_order_says_so(written, caplog):
    for seed in (123_456, 123_456, 123_457):
        list(create_webdataset_dataloader(written[0], 8, 0, seed=seed))
    assert caplog.text.count("begins in the same order as one before it") == 1
    caplog.clear()
    later = create_webdataset_dataloader(written[0], 8, 0, seed=123_456)
    later.set_epoch(1)
    list(later)
    list(create_webdataset_dataloader(written[0], 8, 0, False))
    list(create_webdataset_dataloader(written[0], 8, 0, False))
    assert not caplog.text
