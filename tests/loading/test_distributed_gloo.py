"""Real torch.distributed processes: no rank waits for another in vain, and together they see the epoch once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter

TRAIN = """
import json, os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from neurofm_shards import create_webdataset_dataloader

torch.set_num_threads(1)
folder, epochs, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
dist.init_process_group("gloo")
for name in ("RANK", "WORLD_SIZE"):
    del os.environ[name]  # the process group alone says who we are
loader = create_webdataset_dataloader(folder, batch_size=8, num_workers=2, **options)
model = DistributedDataParallel(torch.nn.Linear(6, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
seen = []
for _ in range(epochs):
    rows = []
    for batch in loader:
        loss = model(batch["x"]).square().mean()
        optimizer.zero_grad()
        loss.backward()  # all ranks meet here: one batch more on one of them would hang
        optimizer.step()
        rows.append([each["row"] for each in batch["metadata"]])
    seen.append(rows)
print(json.dumps({"seen": seen, "steps": len(loader), "weight": model.module.weight.tolist()}))
dist.destroy_process_group()
"""


@pytest.fixture
def uneven(tmp_path):
    """45 samples: two ranks with batches of 8 have 13 in the last global batch."""
    with WebDatasetWriter(tmp_path / "data", shard_size=7) as writer:
        for i in range(45):
            writer.write_sample({"x": np.full(6, i, np.float32)}, metadata={"row": i})
    return tmp_path / "data"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def train(folder, world_size, epochs=2, **options):
    script = folder.parent / "train.py"
    script.write_text(TRAIN)
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
    command = [sys.executable, script, folder, str(epochs), json.dumps(options)]
    ranks = [
        subprocess.Popen(command, env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(world_size)
    ]
    try:
        answers = [rank.communicate(timeout=90)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world_size
    return [json.loads(answer) for answer in answers]


@pytest.mark.parametrize(
    ("options", "steps", "samples"),
    [
        ({}, 3, 46),
        pytest.param({"even": "drop"}, 3, 44, marks=pytest.mark.slow),
        pytest.param({"drop_last": True, "shuffle": "global"}, 2, 32, marks=pytest.mark.slow),
    ],
)
def test_training_with_uneven_data_ends_on_all_ranks_alike(uneven, options, steps, samples):
    answers = train(uneven, 2, **options)
    assert answers[0]["weight"] == answers[1]["weight"]
    for epoch in range(2):
        rows = [row for answer in answers for batch in answer["seen"][epoch] for row in batch]
        assert [len(answer["seen"][epoch]) for answer in answers] == [steps, steps]
        assert len(rows) == samples
        assert len(set(rows)) == min(samples, 45)
        assert answers[0]["steps"] == steps
    assert answers[0]["seen"][0] != answers[0]["seen"][1]
