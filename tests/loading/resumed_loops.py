"""One rank of a run of a framework, over one epoch; it is stopped after some steps, or goes on where one was stopped.

``python resumed_loops.py FRAMEWORK SHARDS CHECKPOINT STEPS`` with the variables that torchrun sets; STEPS is 0 for all.
The samples that this rank was given are printed. For ``ray``, one process starts all ranks, and prints the samples of
each.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from neurofm_shards import create_webdataset_dataloader

BATCH = 8
#: What holds a process group, kept until the end, which comes without destroying it: torch may wait for ever when it
#: destroys a gloo group whose thread has just finished a gather. It holds the GIL and joins the thread, which needs it.
alive = []


class Model(torch.nn.Module):
    """A linear layer that gives the loss, as the Trainer expects, and notes the samples that it was given."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
        self.numbers = []

    def forward(self, x, number):
        self.numbers += number.tolist()
        return {"loss": self.linear(x).square().mean()}


def make(shards):
    return create_webdataset_dataloader(shards, BATCH, 1, metadata=False, seed=5, batch_transform=dict)  # in a thread


def ddp(shards, checkpoint, steps):
    torch.distributed.init_process_group("gloo")
    model, loader = Model(), make(shards)
    if checkpoint.exists():
        loader.load_state_dict(json.loads(checkpoint.read_text()))
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    alive.append(wrapped)
    for step, batch in enumerate(loader, 1):
        wrapped(**batch)["loss"].backward()
        if step == steps:
            break
    if steps and torch.distributed.get_rank() == 0:
        checkpoint.write_text(json.dumps(loader.state_dict()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return model.numbers


def accelerate(shards, checkpoint, steps):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = Model()
    wrapped, loader = accelerator.prepare(model, make(shards))
    alive.append(wrapped)
    if checkpoint.exists():
        accelerator.load_state(checkpoint)
    for step, batch in enumerate(loader, 1):
        accelerator.backward(wrapped(**batch)["loss"])
        if step == steps:
            break
    if steps:
        accelerator.save_state(checkpoint)
    accelerator.end_training()
    return model.numbers


def lightning(shards, checkpoint, steps):
    from lightning import LightningModule, Trainer
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.steps = Model(), 0

        def training_step(self, batch, _):
            return self.model(**batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-6)

        def on_train_batch_end(self, *_):
            self.steps += 1
            if self.steps == steps:
                self.trainer.save_checkpoint(checkpoint)
                self.trainer.should_stop = True

    module, environment = Module(), TorchElasticEnvironment()
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    options = dict.fromkeys(quiet, False) | {"accelerator": "cpu", "strategy": "ddp", "max_epochs": 1}
    trainer = Trainer(devices=environment.world_size(), plugins=[environment], **options)
    alive.append(trainer)
    trainer.fit(module, make(shards), ckpt_path=checkpoint if checkpoint.exists() else None)
    torch.distributed.destroy_process_group()
    return module.model.numbers


def trainer(shards, checkpoint, steps):
    from transformers import Trainer, TrainerCallback, TrainingArguments

    loader = make(shards)

    class OurTrainer(Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(loader)

    class SaveLoader(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_save = control.should_training_stop = state.global_step == steps
            return control

        def on_save(self, args, state, control, **_):
            if state.is_world_process_zero:
                folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
                (folder / "loader.json").write_text(json.dumps(loader.state_dict()))

    arguments = TrainingArguments(
        output_dir=str(checkpoint), num_train_epochs=1, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, remove_unused_columns=False, ignore_data_skip=True, ddp_find_unused_parameters=False,
    )  # fmt: skip
    model, saved = Model(), sorted(checkpoint.glob("checkpoint-*"))
    ours = OurTrainer(model, arguments, train_dataset=loader.dataset, callbacks=[SaveLoader()])
    alive.append(ours)
    if saved:
        loader.load_state_dict(json.loads((saved[-1] / "loader.json").read_text()))
    ours.train(resume_from_checkpoint=str(saved[-1]) if saved else None)
    ours.accelerator.end_training()
    return model.numbers


def ray_rank(config):
    """Train on one rank of Ray Train; all ranks meet in each report, whose checkpoint rank 0 gives."""
    import ray.train.torch

    model, loader = Model(), make(config["shards"])
    wrapped = ray.train.torch.prepare_model(model)
    if config["state"] is not None:
        loader.load_state_dict(config["state"])
    for step, batch in enumerate(loader, 1):
        wrapped(**batch)["loss"].backward()
        if step == config["steps"]:
            break
    rank, folder = ray.train.get_context().get_world_rank(), Path(config["folder"])
    (folder / f"rank {rank}").write_text(json.dumps(model.numbers))
    saved = None
    if rank == 0:
        (folder / "saved").mkdir()
        (folder / "saved" / "loader.json").write_text(json.dumps(loader.state_dict()))
        saved = ray.train.Checkpoint.from_directory(folder / "saved")
    ray.train.report({"samples": len(model.numbers)}, checkpoint=saved)


def ray(shards, checkpoint, steps, world_size):
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    state = json.loads((checkpoint / "loader.json").read_text()) if checkpoint.exists() else None
    ray.init(num_cpus=world_size, include_dashboard=False, logging_level="error")
    with tempfile.TemporaryDirectory() as folder:
        done = TorchTrainer(
            ray_rank,
            train_loop_config={"shards": shards, "state": state, "steps": steps, "folder": folder},
            scaling_config=ScalingConfig(num_workers=world_size),
            run_config=RunConfig(storage_path=f"{folder}/runs"),
        ).fit()
        if steps:
            done.checkpoint.to_directory(checkpoint)
        numbers = [json.loads((Path(folder) / f"rank {rank}").read_text()) for rank in range(world_size)]
    ray.shutdown()
    return numbers


if __name__ == "__main__":
    name, folder, state, count = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    if name == "ray":
        lists = ray(folder, state, count, int(os.environ["WORLD_SIZE"]))
    else:
        run = {"ddp": ddp, "accelerate": accelerate, "lightning": lightning, "trainer": trainer}[name]
        lists = [run(folder, state, count)]
    for numbers in lists:
        print("samples:", json.dumps(numbers), flush=True)
    os._exit(0)
