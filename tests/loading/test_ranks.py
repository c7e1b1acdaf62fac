"""Which rank this is: torch.distributed, else the environment, else arguments; never two answers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from neurofm_shards.errors import ConfigError
from neurofm_shards.loading.ranks import RankRequest, Ranks


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def in_environment(monkeypatch, rank, world_size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)


def test_alone_this_is_rank_0_of_1():
    assert RankRequest().find() == Ranks(0, 1, "default")


def test_arguments_are_used_where_nothing_else_is_said():
    assert RankRequest(1, 3).find() == Ranks(1, 3, "argument")


def test_the_environment_is_used(monkeypatch):
    in_environment(monkeypatch, "2", "4")
    assert RankRequest().find() == Ranks(2, 4, "the environment (RANK, WORLD_SIZE)")
    assert RankRequest(2, 4).find().rank == 2


def test_arguments_that_contradict_the_environment_are_an_error(monkeypatch):
    in_environment(monkeypatch, "2", "4")
    with pytest.raises(ConfigError, match="rank 1 of 4 was asked for, but the environment"):
        RankRequest(1, 4).find()


@pytest.mark.parametrize(("rank", "world_size"), [("4", "4"), ("-1", "4"), ("0", "0"), ("0", ""), ("one", "2")])
def test_a_nonsensical_environment_is_an_error(monkeypatch, rank, world_size):
    in_environment(monkeypatch, rank, world_size)
    with pytest.raises(ConfigError, match="the environment"):
        RankRequest().find()


@pytest.mark.parametrize("arguments", [(1, None), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_nonsensical_arguments_are_an_error(arguments):
    with pytest.raises(ConfigError):
        RankRequest(*arguments).find()


PROCESS = """
import sys, torch.distributed as dist
from neurofm_shards.loading.ranks import RankRequest
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
found = RankRequest().find()
print(found.rank, found.world_size, found.found_in)
dist.barrier()  # one that left while the other still connects would make that fail
dist.destroy_process_group()
"""


def test_an_initialised_process_group_decides(tmp_path):
    environment = {**os.environ, "RANK": "7", "WORLD_SIZE": "9"}  # torch knows better
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "store")]
    both = [subprocess.Popen([*command, str(r)], stdout=subprocess.PIPE, text=True, env=environment) for r in range(2)]
    assert [p.communicate(timeout=300)[0].strip() for p in both] == ["0 2 torch.distributed", "1 2 torch.distributed"]


LATE = """
import sys, torch.distributed as dist
from neurofm_shards import WebDatasetLoader, create_webdataset_dataloader
early = [create_webdataset_dataloader(sys.argv[2], 8, 0), WebDatasetLoader(sys.argv[2])]
print(*map(len, early))
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[3]), world_size=2)
print(sum(len(batch["metadata"]) for batch in early[0]), len(list(early[1])), *map(len, early))
dist.barrier()  # one that left while the other still connects would make that fail
dist.destroy_process_group()
"""


def test_loaders_made_before_the_process_group_read_as_the_rank_that_they_became(tmp_path, written):
    command = [sys.executable, "-c", LATE, str(tmp_path / "store"), str(written[0])]
    both = [subprocess.Popen([*command, str(r)], stdout=subprocess.PIPE, text=True) for r in range(2)]
    for process in both:
        assert process.communicate(timeout=300)[0].splitlines() == ["13 103", "52 52 7 52"]


def test_asking_does_not_import_torch():
    ask = "from neurofm_shards.loading.ranks import RankRequest; RankRequest().find()"
    code = f"import sys; {ask}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
