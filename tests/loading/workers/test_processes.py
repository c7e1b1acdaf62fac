"""Batches from other processes: in shared memory that is reused, never under a caller's hands, never left behind."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import reduction
from pathlib import Path

import numpy as np
import pytest
import torch

from neurofm_shards.errors import WorkerError
from neurofm_shards.loading.plans.plan import Request
from neurofm_shards.loading.workers.pipeline import Fetched, run
from neurofm_shards.loading.workers.processes import ProcessWorkers
from neurofm_shards.loading.workers.shared import anonymous_memory, pack, unpack


def requests(count):
    for i in range(count):
        yield Request(((0, np.array([i])),), None, i + 1)


def filled(request):
    """A batch of 200 KB whose every number is the request's."""
    number = float(request.parts[0][1][0])
    return Fetched({"x": torch.full((50, 1000), number), "note": f"batch {number:.0f}", "more": [torch.tensor(number)]})


def growing(request):
    number = int(request.parts[0][1][0])
    return Fetched(torch.full((1 + number * 20_000,), float(number)))


@pytest.fixture
def start():
    made = []

    def make(fetch=filled, count=2, prefetch=2, context=None):
        made.append(ProcessWorkers(fetch, count, prefetch, context))
        return made[-1]

    yield make
    for workers in made:
        workers.close()


def mapped_bytes(workers):
    return sum(len(memory) for worker in workers._workers for memory in worker._memory.values())


def names_in_shared_memory():
    folder = Path("/dev/shm")  # noqa: S108  (looked at, not used)
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def gone_again(before):
    """Wait until no name is new in shared memory: those of other programs come and go, ours would stay."""
    deadline = time.monotonic() + 60
    while not (found := names_in_shared_memory() <= before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def num_slots(workers):
    return sum(len(worker._memory) for worker in workers._workers)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.complex64, torch.uint16]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 5)])
def test_tensors_come_out_of_shared_memory_as_they_went_in(dtype, shape):
    tensor = (torch.arange(15)[: int(np.prod(shape))].reshape(shape) % 2).to(dtype)
    value = {"a": tensor, "b": [tensor.T if tensor.ndim == 2 else tensor, "text"], "c": (None, {"d": tensor})}
    packed = pack(value)
    memory, fd = anonymous_memory(packed.size + 1)
    os.close(fd)
    found = unpack(memory, packed.write(memory), lambda: None)
    assert found["b"][1] == "text"
    for tensor_there in (found["a"], found["c"][1]["d"]):
        assert tensor_there.dtype == dtype
        assert torch.equal(tensor_there, tensor)
    assert torch.equal(found["b"][0], value["b"][0])


def test_nested_and_sparse_tensors_travel_too():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    value = {"nested": nested, "sparse": torch.eye(3).to_sparse()}
    packed = pack(value)
    memory, fd = anonymous_memory(packed.size + 1)
    os.close(fd)
    found = unpack(memory, packed.write(memory), lambda: None)
    assert [part.tolist() for part in found["nested"].unbind()] == [[1.0, 1.0], [1.0, 1.0, 1.0]]
    assert torch.equal(found["sparse"].to_dense(), torch.eye(3))


def test_memory_is_released_when_the_last_view_of_the_last_tensor_goes():
    packed = pack([torch.ones(4), torch.zeros(4)])
    memory, fd = anonymous_memory(packed.size + 1)
    os.close(fd)
    released = []
    first, second = unpack(memory, packed.write(memory), lambda: released.append(True))
    view = second[1:].numpy()
    del first, second
    assert not released
    del view
    assert released == [True]


def test_memory_is_released_at_once_where_there_are_no_tensors():
    packed = pack("no tensors")
    memory, fd = anonymous_memory(packed.size + 1)
    os.close(fd)
    released = []
    assert unpack(memory, packed.write(memory), lambda: released.append(True)) == "no tensors"
    assert released == [True]


def test_slots_are_used_again_when_batches_are_let_go(start):
    workers = start()
    for fetched, _ in run(requests(60), workers):
        del fetched
    assert num_slots(workers) <= 2 * (4 + 2)  # four tasks under way, one delivered, one in the caller's hands


def test_a_kept_batch_never_changes(start):
    workers = start()
    kept = [fetched.batch["x"][3:5] for fetched, _ in run(requests(40), workers)]
    for number, part in enumerate(kept):
        assert (part == number).all()
    assert num_slots(workers) >= 40
    workers.close()
    for number, part in enumerate(kept):
        assert (part == number).all()


def test_a_caller_who_keeps_everything_runs_out_of_neither_slots_nor_descriptors(start):
    workers = start()
    kept = [fetched.batch["x"] for fetched, _ in run(requests(300), workers)]
    assert all((batch == number).all() for number, batch in enumerate(kept))
    assert num_slots(workers) < 100


def test_batches_that_grow_get_larger_slots_and_small_ones_are_given_up(start):
    workers = start(growing)
    for fetched, request in run(requests(40), workers):
        assert fetched.batch.shape == (1 + (request.position_after - 1) * 20_000,)
        assert fetched.batch[-1] == request.position_after - 1
        del fetched
    assert mapped_bytes(workers) < 12 * 40 * 20_000 * 4


def test_a_caller_may_write_into_a_batch(start):
    for fetched, _ in run(requests(10), start()):
        batch = fetched.batch["x"]
        batch += 1000
        assert (batch >= 1000).all()
        del fetched, batch


@pytest.mark.parametrize(
    "context", ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("spawn", "forkserver"))]
)
def test_processes_can_be_started_in_every_way(start, context, tmp_path, monkeypatch):
    # a function that a new interpreter can import, as pytest's own modules cannot be
    (tmp_path / "numbered_batches.py").write_text(
        "import torch\nfrom neurofm_shards.loading.workers.pipeline import Fetched\n\n\n"
        "def batch_of(request):\n    return Fetched({'x': torch.full((9,), float(request.parts[0][1][0]))})\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numbered_batches", raising=False)
    batch_of = importlib.import_module("numbered_batches").batch_of
    found = [fetched.batch["x"].tolist() for fetched, _ in run(requests(5), start(batch_of, 2, 2, context))]
    assert found == [[float(i)] * 9 for i in range(5)]


def test_platforms_whose_descriptors_are_acknowledged_give_the_same_batches(start, monkeypatch):
    # macOS, and Linux since Python 3.14: what is sent for the next batch arrives where an answer is expected
    monkeypatch.setattr(reduction, "ACKNOWLEDGE", True)
    workers = start(filled, 1, 4, "fork")
    kept = [fetched.batch for fetched, _ in run(requests(40), workers)]
    assert [batch["note"] for batch in kept] == [f"batch {i}" for i in range(40)]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_is_an_error_that_names_process_and_signal(start, sent):
    workers = start()
    stream = run(requests(500), workers)
    next(stream)
    victim = workers._workers[0].process.pid
    os.kill(victim, sent)
    with pytest.raises(WorkerError, match=rf"loader process {victim} was killed by {sent.name}"):
        list(stream)


def test_a_worker_that_dies_in_the_middle_of_a_batch_is_noticed(start):
    def dies(request):
        if request.position_after == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return filled(request)

    with pytest.raises(WorkerError, match=r"SIGKILL \(the system does that when memory runs out\)"):
        list(run(requests(20), start(dies)))


def test_a_worker_that_exits_by_itself_is_noticed(start):
    with pytest.raises(WorkerError, match="ended by itself with exit code 3"):
        list(run(requests(20), start(lambda _: os._exit(3))))


def test_closing_ends_all_processes_even_one_that_is_stuck(start):
    def stuck(request):
        time.sleep(0 if request.position_after == 1 else 3600)
        return filled(request)

    workers = start(stuck)
    next(run(requests(20), workers))
    pids = [worker.process.pid for worker in workers._workers]
    workers.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_random_numbers_depend_on_the_batch_and_not_on_who_makes_it(start):
    def noise(_):
        return Fetched((torch.rand(2).tolist(), np.random.rand(2).tolist()))  # noqa: NPY002

    found = []
    for count in (1, 3):
        workers = start(noise, count)
        workers.begin(11)
        found.append([fetched.batch for fetched, _ in run(requests(10), workers)])
    assert found[0] == found[1]
    assert len({repr(batch) for batch in found[0]}) == 10


ORPHANS = """
import json, sys, time
import numpy as np, torch
from neurofm_shards.loading.workers.pipeline import Fetched, run
from neurofm_shards.loading.plans.plan import Request
from neurofm_shards.loading.workers.processes import ProcessWorkers

def fetch(request):
    return Fetched(torch.zeros(100_000))

if __name__ == "__main__":
    workers = ProcessWorkers(fetch, 2, 2, sys.argv[1])
    stream = run((Request(((0, np.array([i])),), None, i + 1) for i in range(10**6)), workers)
    next(stream)
    print(json.dumps([worker.process.pid for worker in workers._workers]), flush=True)
    for _ in stream:
        time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_killing_the_parent_ends_the_workers_and_leaves_nothing_behind(tmp_path, context):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    before = names_in_shared_memory()
    parent = subprocess.Popen([sys.executable, script, context], stdout=subprocess.PIPE, text=True)
    workers = json.loads(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 300
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    assert gone_again(before)


def alive(pid):
    """Whether a process runs (one that nobody waits for stays as a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_nothing_has_a_name_in_shared_memory(start):
    before = names_in_shared_memory()
    stream = run(requests(10), start())
    next(stream)
    assert gone_again(before)
