"""Lightning and Accelerate: the same batches as a plain loop, and a state that they save and load."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch

from neurofm_shards import create_webdataset_dataloader

# Their own deprecations and advice are no findings here.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
BATCH, STEPS = 8, 13


def rows_of(batch):
    return [each["row"] for each in batch["metadata"]]


def make(written, num_workers=0):
    return create_webdataset_dataloader(written[0], BATCH, num_workers, rank=0, world_size=1)


@pytest.fixture
def expected(written):
    """Three epochs of a plain loop."""
    loader = make(written)
    return [rows_of(batch) for _ in range(3) for batch in loader]


def module_and_trainer(folder, save_at=None):
    """A module that notes its batches, and a trainer for three epochs that saves a checkpoint after some step."""
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed: pip install lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(20, 1)
            self.seen = []

        def training_step(self, batch, _):
            self.seen.append(rows_of(batch))
            return self.linear(batch["x"].flatten(1)).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-6)

        def on_train_batch_end(self, *_):
            if len(self.seen) == save_at:
                self.trainer.save_checkpoint(folder / "run.ckpt")

    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = {"max_epochs": 3, "accelerator": "cpu", "default_root_dir": folder, **dict.fromkeys(quiet, False)}
    return Module(), lightning.Trainer(**options)


@pytest.mark.parametrize("stop", [5, 12, 13, 14, 38])
def test_lightning_continues_from_its_checkpoint(written, expected, tmp_path, stop):
    module, trainer = module_and_trainer(tmp_path, stop)
    trainer.fit(module, make(written, 2))
    assert module.seen == expected
    resumed, trainer = module_and_trainer(tmp_path)
    trainer.fit(resumed, make(written), ckpt_path=tmp_path / "run.ckpt")
    assert resumed.seen == expected[stop:]


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
