"""Ranks that share an epoch have the same plan, or every one of them stops and says what differs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import itertools, json, sys, torch.distributed as dist
from neurofm_shards import WebDatasetLoader, create_webdataset_dataloader
from neurofm_shards.loading import agreement

folder, store, rank, world, options, kind = *sys.argv[1:3], *map(int, sys.argv[3:5]), *map(json.loads, sys.argv[5:])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
make = {"batches": lambda **o: create_webdataset_dataloader(folder, num_workers=0, **{"batch_size": 8, **o}),
        "samples": lambda **o: WebDatasetLoader(folder, **o)}[kind["make"]]
agreement.PATIENCE = kind.get("patience", 60)
seen = "nothing"
loader = make(**options) if rank not in kind.get("absent", []) else None
if loader is not None and rank not in kind.get("idle", []):
    try:
        if kind.get("resumes") == rank:
            list(itertools.islice(loader, 2))
            loader.load_state_dict(loader.state_dict())
            dist.barrier()
        elif "resumes" in kind:
            dist.barrier()
        seen = [sum(1 for _ in loader) for _ in range(2)]
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"
print(json.dumps(seen))
dist.barrier()
dist.destroy_process_group()
"""


def ranks(tmp_path, folder, options, world=2, **kind):
    kind = {"make": "batches", **kind}
    both = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", SCRIPT, folder, tmp_path / "store", str(rank), str(world)),
                *(json.dumps(options[rank]), json.dumps(kind)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        return [json.loads(each.communicate(timeout=180)[0]) for each in both]
    finally:
        for each in both:
            each.kill()
            each.stdout.close()
            each.wait()


@pytest.mark.parametrize("make", ["batches", "samples"])
def test_ranks_with_the_same_loader_go_on(tmp_path, written, make):
    expected = [7, 7] if make == "batches" else [52, 52]
    assert ranks(tmp_path, written[0], [{}, {}], make=make) == [expected, expected]


@pytest.mark.parametrize(
    ("make", "other", "says"),
    [
        ("batches", {"seed": 7}, "seed: 42 on rank 0, 7 on rank 1"),
        pytest.param("batches", {"shuffle": "global"}, "shuffle: True on rank 0, global", marks=pytest.mark.slow),
        ("batches", {"batch_size": 4}, "batch_size: 8 on rank 0, 4 on rank 1"),
        pytest.param("batches", {"where": "row < 50"}, "samples: 103 on rank 0, 50 on", marks=pytest.mark.slow),
        pytest.param("batches", {"even": "drop"}, "even: pad on rank 0, drop on rank 1", marks=pytest.mark.slow),
        pytest.param("samples", {"seed": 7}, "seed: 42 on rank 0, 7 on rank 1", marks=pytest.mark.slow),
        ("samples", {"shuffle": False}, "shuffle: True on rank 0, False on rank 1"),
    ],
)
def test_another_setting_on_one_rank_is_an_error_on_both_that_names_it(tmp_path, written, make, other, says):
    for found in ranks(tmp_path, written[0], [{}, other], make=make):
        assert found.startswith("ConfigError: ranks that share an epoch need the same loader")
        assert says in found


def test_the_odd_one_out_of_three_is_named(tmp_path, written):
    for found in ranks(tmp_path, written[0], [{}, {"seed": 5}, {}], world=3):
        assert "seed: 42 on rank 0, 5 on rank 1" in found


def test_a_loader_that_one_rank_alone_iterates_does_not_wait(tmp_path, written):
    assert ranks(tmp_path, written[0], [{}, {}], idle=[1]) == [[7, 7], "nothing"]


def test_a_rank_that_made_no_loader_is_named(tmp_path, written):
    found, _ = ranks(tmp_path, written[0], [{}, {}], absent=[1], patience=1)
    assert found.startswith("WorkerError: rank 0 waited 1 s for rank 1")
    assert "shard=False" in found


@pytest.mark.parametrize("options", [{"shard": False}, {"rank": 0, "world_size": 1}])
def test_a_loader_for_one_rank_alone_is_nobody_elses_business(tmp_path, written, options):
    assert ranks(tmp_path, written[0], [options, {}], absent=[1], patience=1) == [[13, 13], "nothing"]


def test_ranks_that_begin_at_different_places_are_told(tmp_path, written):
    found = ranks(tmp_path, written[0], [{"shuffle": False}] * 2, resumes=1)
    said = [each for each in found if isinstance(each, str)]
    assert said
    assert "ConfigError: ranks that share an epoch begin at one place" in said[0]
    assert "sample 32" in said[0]
