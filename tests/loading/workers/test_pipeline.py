"""Batches come in order, a bounded number in advance, and nothing is left behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from functools import partial

import numpy as np
import pytest
import torch  # noqa: F401  (loaded once here, not in every process that is forked)

from neurofm_shards.errors import ClosedError, WorkerError
from neurofm_shards.loading.plans.plan import Request
from neurofm_shards.loading.workers import select
from neurofm_shards.loading.workers.pipeline import Fetched, InlineWorkers, run
from neurofm_shards.loading.workers.processes import ProcessWorkers
from neurofm_shards.loading.workers.select import SLOW_BATCHES, WorkersIfSlow
from neurofm_shards.loading.workers.threads import ThreadWorkers

KINDS = ["inline", "threads", "processes", "threads if slow"]


def requests(count):
    for i in range(count):
        yield Request(((0, np.array([i])),), None, i + 1)


def echo(request):
    number = int(request.parts[0][1][0])
    time.sleep(0.002 if number % 3 == 0 else 0)
    return Fetched(number)


def fails_at_five(request):
    if int(request.parts[0][1][0]) == 5:
        raise KeyError("five")
    return echo(request)


def make(kind, fetch, count=3, prefetch=2):
    if kind == "inline":
        return InlineWorkers(fetch)
    if kind == "threads if slow":
        return WorkersIfSlow(fetch, partial(ThreadWorkers, fetch, count, prefetch))
    return (ThreadWorkers if kind == "threads" else ProcessWorkers)(fetch, count, prefetch)


@pytest.fixture
def workers(monkeypatch):
    monkeypatch.setattr(select, "SLOW_SECONDS", 0)
    made = []

    def start(*arguments):
        made.append(make(*arguments))
        return made[-1]

    yield start
    for each in made:
        each.close()


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("neurofm-shards")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [1, 4])
def test_batches_come_in_the_order_of_their_requests(workers, kind, group):
    found = [fetched.batch for fetched, _ in run(requests(30), workers(kind, echo), group)]
    assert found == list(range(30))


@pytest.mark.parametrize("kind", KINDS)
def test_each_batch_comes_with_its_own_request(workers, kind):
    for fetched, request in run(requests(9), workers(kind, echo), 4):
        assert request.position_after == fetched.batch + 1


@pytest.mark.parametrize(("kind", "most"), [("inline", 0), ("threads", 6), ("processes", 6), ("threads if slow", 6)])
def test_no_more_is_requested_in_advance_than_there_are_slots(workers, kind, most):
    asked = []

    def counted():
        for request in requests(40):
            asked.append(request)
            yield request

    for number, _ in enumerate(run(counted(), workers(kind, echo)), 1):
        assert len(asked) <= number + most


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [1, 8])
def test_an_error_comes_in_its_turn_with_its_own_type_and_message(workers, kind, group):
    stream = run(requests(20), workers(kind, fails_at_five), group)
    assert [next(stream)[0].batch for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="five"):
        next(stream)


def test_an_error_from_a_process_says_where_it_was_raised(workers):
    with pytest.raises(KeyError) as caught:
        list(run(requests(9), workers("processes", fails_at_five)))
    assert "fails_at_five" in str(caught.value.__cause__)


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_an_error_that_cannot_travel_becomes_a_worker_error_with_its_text(workers):
    def fetch(request):
        raise UnpicklableError("this", "that")

    with pytest.raises(WorkerError, match="UnpicklableError in a worker process: this and that"):
        list(run(requests(3), workers("processes", fetch)))


def test_a_batch_that_cannot_travel_is_an_error_that_says_so(workers):
    with pytest.raises(WorkerError, match="cannot be handed"):
        list(run(requests(3), workers("processes", lambda _: Fetched(lambda: None))))


@pytest.mark.parametrize("kind", KINDS)
def test_workers_can_be_used_again_after_an_early_stop(workers, kind):
    same = workers(kind, echo)
    first = run(requests(50), same)
    assert [next(first)[0].batch for _ in range(3)] == [0, 1, 2]
    first.close()
    assert [fetched.batch for fetched, _ in run(requests(7), same)] == list(range(7))


def test_without_workers_there_is_no_thread_and_nothing_is_read_in_advance():
    seen = []

    def fetch(request):
        seen.append((request.position_after, threading.current_thread()))
        return Fetched(None)

    stream = run(requests(5), InlineWorkers(fetch))
    next(stream)
    assert seen == [(1, threading.main_thread())]


@pytest.mark.parametrize("group", [1, 4])
def test_the_caller_makes_batches_until_several_in_a_row_take_long(monkeypatch, group):
    now = 0.0

    def fetch(request):
        nonlocal now
        if number(request) >= 30:
            now += 10
        return Fetched(threading.current_thread())

    def number(request):
        return int(request.parts[0][1][0])

    monkeypatch.setattr(select, "perf_counter", lambda: now)
    monkeypatch.setattr(select, "SLOW_SECONDS", 1)
    workers = WorkersIfSlow(fetch, partial(ThreadWorkers, fetch, 2, 2))
    try:
        for _ in range(2):  # each epoch anew
            workers.begin(0)
            found = [
                (fetched.batch is threading.main_thread(), number(r))
                for fetched, r in run(requests(90), workers, group)
            ]
            alone = [i for here, i in found if here]
            assert [i for _, i in found] == list(range(90))
            assert alone == list(range(len(alone)))
            assert 30 + SLOW_BATCHES * group - group < len(alone) <= 30 + SLOW_BATCHES * group + group
    finally:
        workers.close()
    assert not loader_threads()


def test_a_single_batch_that_takes_long_starts_no_thread(monkeypatch):
    times = iter(range(10**6))  # each look at the clock is a second later
    monkeypatch.setattr(select, "perf_counter", lambda: next(times) if slow else 0)
    monkeypatch.setattr(select, "SLOW_SECONDS", 0.5)
    slow = False

    def fetch(request):
        nonlocal slow
        slow = int(request.parts[0][1][0]) % SLOW_BATCHES != 0
        return Fetched(None)

    workers = WorkersIfSlow(fetch, partial(ThreadWorkers, fetch, 2, 2))
    assert len(list(run(requests(60), workers))) == 60
    assert not loader_threads()


def test_closing_threads_waits_for_them():
    workers = ThreadWorkers(echo, 4, 2)
    stream = run(requests(100), workers)
    next(stream)
    assert loader_threads()
    workers.close()
    assert not loader_threads()


def test_threads_end_when_an_iteration_is_garbage_collected_in_one_of_them():
    workers = ThreadWorkers(echo, 2, 2)
    stopped = threading.Event()

    def close_inside(request):
        workers.close()
        stopped.set()
        return Fetched(None)

    workers._fetch = close_inside
    workers.submit(list(requests(1)))
    assert stopped.wait(300)
    deadline = time.monotonic() + 300
    while loader_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not loader_threads()


def test_a_batch_is_freed_as_soon_as_the_caller_lets_go():
    class Batch:
        alive = 0

        def __init__(self):
            Batch.alive += 1

        def __del__(self):
            Batch.alive -= 1

    for fetched, _ in run(requests(20), InlineWorkers(lambda _: Fetched(Batch()))):
        del fetched
        gc.collect(0)
        assert Batch.alive <= 1
    assert Batch.alive == 0


def test_threads_that_were_ended_take_nothing_more():
    workers = ThreadWorkers(echo, 2, 2)
    workers.close()
    with pytest.raises(ClosedError, match="iterate over the loader again"):
        workers.submit(list(requests(1)))


def test_ending_threads_leaves_nobody_waiting_for_a_batch():
    started, go_on = threading.Event(), threading.Event()

    def slow(request):
        started.set()
        assert go_on.wait(300)
        return echo(request)

    workers, outcomes = ThreadWorkers(slow, 1, 4), []
    for request in requests(3):
        workers.submit([request])
    waiting = threading.Thread(target=lambda: outcomes.extend(len(list(workers.result())) for _ in range(3)))
    waiting.start()
    assert started.wait(300)
    ending = threading.Thread(target=workers._pool.close)  # without forgetting what was submitted
    ending.start()
    go_on.set()
    for thread in (waiting, ending):
        thread.join(300)
        assert not thread.is_alive()
    assert outcomes == [1, 0, 0]


def test_threads_that_wait_keep_nothing_alive():
    class Reads:
        def __call__(self, request):
            return echo(request)

    fetch = Reads()
    kept, workers = weakref.ref(fetch), ThreadWorkers(fetch, 2, 2)
    threads = loader_threads()
    assert [fetched.batch for fetched, _ in run(requests(9), workers)] == list(range(9))
    del fetch, workers
    gc.collect()
    assert kept() is None
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
