"""Calls on any executor: in their order, again after a lost worker, and one error whatever the executor does."""

from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor

import pytest
from toy_calls import die, die_unless, fail, fail_stubbornly, nap

from neurofm_shards.convert import dispatch
from neurofm_shards.convert.dispatch import Call, Dispatcher, WorkerContext, dispatcher, executor_options, run_call
from neurofm_shards.errors import ConfigError, MissingPluginError, PluginError, WorkerError
from neurofm_shards.events import CallRetried, WorkersCounted
from neurofm_shards.plugins.registry import install_hint


def calls(function, *arguments):
    return [Call(function, (argument,), f"calling {argument}") for argument in arguments]


def values(batches):
    return [answer.value for answers in batches for answer in answers]


class Scripted(Executor):
    """Answers each call as it is told: with an exception, or by running it."""

    def __init__(self, *script):
        self.script = list(script)
        self.was_shut_down = False

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        answer = self.script.pop(0) if self.script else None
        if answer is None:
            future.set_result(fn(*args, **kwargs))
        else:
            future.set_exception(answer)
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.was_shut_down = True


@pytest.mark.parametrize("kind", [("serial", 1), ("threads", 3), ("processes", 3)])
def test_results_come_in_order_and_as_they_come(kind):
    with dispatcher(*kind) as made:
        assert list(made.in_order(calls(abs, *range(-20, 0)))) == list(range(20, 0, -1))
        assert sorted(values(made.as_they_come(calls(abs, *range(-20, 0))))) == list(range(1, 21))


def test_a_bounded_number_is_under_way():
    running, most, lock = set(), [], threading.Lock()

    def note(i):
        with lock:
            running.add(i)
            most.append(len(running))
        nap(0.005)
        with lock:
            running.remove(i)

    with dispatcher("threads", 3) as made:
        taken = []
        list(made.as_they_come(taken.append(i) or call for i, call in enumerate(calls(note, *range(40)))))
    assert max(most) <= 3
    assert len(taken) == 40


@pytest.mark.parametrize("kind", [("serial", 1), ("processes", 2)])
def test_an_error_keeps_its_type_and_message(kind):
    with pytest.raises(ConfigError, match=r"^no$"), dispatcher(*kind) as made:
        list(made.in_order(calls(fail, "no")))


def test_an_error_of_a_worker_says_where_it_arose_and_may_be_of_any_class():
    with pytest.raises(ConfigError) as caught, dispatcher("processes", 2) as made:
        list(made.in_order(calls(fail, "no")))
    assert "in fail" in str(caught.value.__cause__)
    with (
        pytest.raises(WorkerError, match="StubbornError in a worker process: 1 and 2"),
        dispatcher("processes", 2) as made,
    ):
        list(made.in_order([Call(fail_stubbornly, (), "failing")]))


def test_a_result_that_cannot_be_pickled_is_an_error():
    with pytest.raises((AttributeError, TypeError, WorkerError)), dispatcher("processes", 2) as made:
        list(made.in_order([Call(threading.Lock, (), "locking")]))


def test_what_cannot_be_sent_is_said_and_one_worker_takes_it():
    with pytest.raises(PluginError, match="or use one worker"), dispatcher("processes", 2) as made:
        list(made.in_order(calls(lambda value: value, 1)))
    with dispatcher(None, 1) as made:
        assert list(made.in_order(calls(lambda value: value, 1))) == [1]


def test_a_lost_worker_costs_one_more_attempt(tmp_path):
    events = []
    with dispatcher("processes", 2, listener=events.append) as made:
        found = list(made.in_order([*calls(die_unless, str(tmp_path / "first")), *calls(abs, -1, -2)]))
    assert found[1:] == [1, 2]
    assert found[0] is not None
    retried = [event for event in events if isinstance(event, CallRetried)]
    assert [(event.what, event.attempt) for event in retried] == [(f"calling {tmp_path / 'first'}", 1)]
    assert "was killed by SIGKILL" in retried[0].error


@pytest.mark.parametrize("retries", [0, 2])
def test_a_call_that_kills_every_worker_is_named_and_not_tried_for_ever(retries):
    events = []
    with (
        pytest.raises(WorkerError, match="a worker process died.* while ending it all .*SIGKILL.*resume"),
        dispatcher("processes", 2, retries=retries, listener=events.append) as made,
    ):
        list(made.in_order([Call(die, (), "ending it all")]))
    assert sum(isinstance(event, CallRetried) for event in events) == retries


def test_answers_that_have_come_are_handed_over_together_and_before_an_error():
    engine = Dispatcher(lambda: Scripted(None, RuntimeError("engine trouble"), None), workers=2)
    batches = engine.as_they_come(calls(abs, -1, -2, -3, -4, -5))
    assert [answer.value for answer in next(batches)] == [1, 3, 4]
    with pytest.raises(WorkerError, match="while calling -2"):
        next(batches)


def test_an_executor_that_is_broken_for_good_is_made_again():
    class Broken(Scripted):
        def submit(self, fn, /, *args, **kwargs):
            raise BrokenExecutor("gone")

    made = [Broken(), Scripted()]
    engine = Dispatcher(lambda: made.pop(0))
    assert list(engine.in_order(calls(abs, -3))) == [3]
    assert not made


@pytest.mark.parametrize(
    "error", [RuntimeError("engine trouble"), CancelledError("engine trouble"), TypeError("engine trouble")]
)
def test_any_failure_of_the_executor_is_one_error_with_the_task_and_the_way_on(error):
    engine = Dispatcher(lambda: Scripted(error))
    with pytest.raises(WorkerError, match="the executor failed while calling -3: .*engine trouble.*mode='resume'"):
        list(engine.in_order(calls(abs, -3)))


def test_an_executor_that_cannot_be_closed_does_not_hide_the_error(caplog, monkeypatch):
    class Unclosable(Scripted):
        def shutdown(self, wait=True):
            raise AssertionError("never called like this")

    monkeypatch.setattr(dispatch.registry().executors, "make", lambda _: Unclosable(), raising=False)
    with pytest.raises(KeyboardInterrupt), dispatcher("serial", 1):
        raise KeyboardInterrupt
    assert "the executor could not be closed" in caplog.text


def test_a_run_that_has_lost_all_workers_ends_instead_of_waiting():
    class Deserted(ThreadPoolExecutor):
        counts = iter([2, 2, *[0] * 1000])

        def workers_alive(self):
            return next(self.counts)

    events = []
    engine = Dispatcher(lambda: Deserted(1), patience_s=0.5, listener=events.append)
    with pytest.raises(WorkerError, match="no worker is left.*mode='resume'"):
        list(engine.in_order([Call(_wait, (), "waiting")]))
    _END.set()
    assert [event.alive for event in events if isinstance(event, WorkersCounted)] == [2, 0]


def test_a_driver_that_was_suspended_raises_no_alarm(monkeypatch):
    """The first look after a long time may find no worker; that has not been so all the while."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    alive = dispatch._Liveness()
    assert alive.update(0) == 0, "none has started yet"
    assert alive.update(2) == 0
    now[0] += 600
    assert alive.update(0) == 0
    now[0] += 600
    assert alive.update(0) == 2
    now[0] += 1
    assert alive.update(0) == 3
    assert alive.update(1) == 0


_END = threading.Event()


def _wait():
    _END.wait(300)


def test_workers_of_another_version_are_refused():
    here = WorkerContext.of_this_process()
    payload = pickle.dumps((abs, (-1,)))
    assert pickle.loads(run_call(here, payload)).value == 1
    other = WorkerContext(here.settings, (*here.versions, ("neurofm-shards-smell", "3.1")))
    failure = pickle.loads(run_call(other, payload))
    with pytest.raises(WorkerError, match="neurofm-shards-smell is missing there and 3.1 here; install the same"):
        raise failure.error


def test_workers_that_do_not_see_the_output_are_refused(tmp_path, monkeypatch):
    with dispatcher("processes", 2) as made:
        made.check(tmp_path)
        assert not list(tmp_path.iterdir())
        monkeypatch.setattr(dispatch, "Path", lambda path: tmp_path / "elsewhere" / str(path).replace("/", "_"))
    engine = Dispatcher(Scripted)
    with pytest.raises(WorkerError, match="does not see the output folder .*staging='local'"):
        engine.check(tmp_path)
    engine.check(tmp_path, shared=False)


def test_executors_are_chosen_by_name_or_options():
    assert executor_options(None, 1) == {"kind": "serial", "workers": 1}
    assert executor_options(None, 3) == {"kind": "processes", "workers": 3}
    assert executor_options({"kind": "threads", "workers": 5}, 2) == {"kind": "threads", "workers": 5}
    with pytest.raises(ConfigError, match="at least 1"):
        executor_options(None, 0)
    with pytest.raises(MissingPluginError, match="carrier-pigeons"), dispatcher("carrier-pigeons", 2):
        pass
    assert install_hint("executor", "slurm") == "pip install 'neurofm-shards[slurm]'"
    with pytest.raises(ConfigError, match="speed: no such option"), dispatcher({"kind": "threads", "speed": 3}, 2):
        pass
