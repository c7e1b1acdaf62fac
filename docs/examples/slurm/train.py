"""A training script for srun and torchrun: each rank reads its share, and a preempted job goes on where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import distributed

from neurofm_shards import create_webdataset_dataloader


def main() -> None:
    """Train for STEPS steps, and save where the run stands after each."""
    checkpoint, steps = Path(os.environ["CHECKPOINT"]), int(os.environ.get("STEPS", "100"))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    loader = create_webdataset_dataloader(os.environ["SHARDS"], batch_size=8, num_workers=0, seed=1)
    step = 0
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        step = saved["step"]
        loader.load_state_dict(saved["loader"])
    distributed.barrier()  # all ranks have read the checkpoint before the first writes the next
    while step < steps:
        for batch in loader:
            total = batch["x"].double().sum()
            distributed.all_reduce(total)  # where the gradients of a model would be averaged
            step += 1
            if distributed.get_rank() == 0:
                print(f"step {step}: {total.item():.6f}", flush=True)
                save(checkpoint, {"step": step, "loader": loader.state_dict()})
            if step == steps:
                break
    distributed.destroy_process_group()


def save(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint, so that a job that is killed meanwhile leaves the one before."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(state))
    partial.replace(path)


if __name__ == "__main__":
    main()
