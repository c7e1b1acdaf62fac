"""Real torch.distributed processes: no rank waits for another in vain, and together they see the epoch once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from neurofm_shards import WebDatasetWriter, create_webdataset_dataloader

TRAIN = """
import itertools, json, os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from neurofm_shards import create_webdataset_dataloader

torch.set_num_threads(1)
folder, epochs, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
state, steps = options.pop("state", None), options.pop("steps", None)
dist.init_process_group("gloo")
for name in ("RANK", "WORLD_SIZE"):
    del os.environ[name]  # the process group alone says who we are
# with something to do beside copying, so that workers are used
loader = create_webdataset_dataloader(folder, **{"batch_size": 8, "num_workers": 2, "batch_transform": dict, **options})
if state is not None:
    loader.load_state_dict(state)
model = DistributedDataParallel(torch.nn.Linear(6, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
seen = []
for _ in range(epochs):
    rows = []
    for batch in itertools.islice(loader, steps):
        loss = model(batch["x"]).square().mean()
        optimizer.zero_grad()
        loss.backward()  # all ranks meet here: one batch more on one of them would hang
        optimizer.step()
        rows.append([each["row"] for each in batch["metadata"]])
    seen.append(rows)
print(json.dumps({"seen": seen, "steps": len(loader), "weight": model.module.weight.tolist(),
    "state": loader.state_dict()}))
del model, optimizer, loss  # what holds the group would keep gloo's threads until the interpreter takes itself apart
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
        answers = [rank.communicate(timeout=240)[0] for rank in ranks]
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


@pytest.mark.slow
def test_a_run_of_four_ranks_goes_on_with_two_and_then_with_one(uneven):
    alone = create_webdataset_dataloader(uneven, 8, 0, rank=0, world_size=1)
    expected = [row["row"] for batch in alone for row in batch["metadata"]]
    found, state = [], None
    for world_size, steps, num_workers in [(4, 2, 2), (2, 2, 0), (1, 1, 1)]:
        options = {"batch_size": 8 // world_size, "num_workers": num_workers, "state": state, "steps": steps}
        answers = train(uneven, world_size, 1, **options)
        assert all(answer["state"] == answers[0]["state"] for answer in answers)
        state = answers[0]["state"]
        batches = zip(*(answer["seen"][0] for answer in answers), strict=True)
        found += [row for ranks in batches for rows in ranks for row in rows]
        assert state["position"] == len(found)
    assert found == expected[:40]
    (last,) = train(uneven, 1, 2, state=state)
    assert last["seen"][0] == [expected[40:]]
    assert sorted(row for rows in last["seen"][1] for row in rows) == list(range(45))


@pytest.mark.slow
def test_four_ranks_with_uneven_data_end_alike(uneven):
    answers = train(uneven, 4, batch_size=4)
    assert {answer["steps"] for answer in answers} == {3}
    assert all(answer["weight"] == answers[0]["weight"] for answer in answers)
    for epoch in range(2):
        assert {row for answer in answers for batch in answer["seen"][epoch] for row in batch} == set(range(45))
