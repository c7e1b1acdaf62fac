"""The built-in executors pass the conformance suite, and broken ones do not."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from neurofm_shards.plugins.entries import ExecutorEntry
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing import ExecutorConformance


class TestSerial(ExecutorConformance):
    name = "serial"
    workers = 1
    has_processes = False


class TestThreads(ExecutorConformance):
    name = "threads"
    has_processes = False


class TestProcesses(ExecutorConformance):
    name = "processes"


class Swapping(ThreadPoolExecutor):
    """Gives every second call the result of the one before."""

    shares_memory = True
    last = None

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        future, self.last = (self.last, None) if self.last is not None else (future, future)
        return future


class Wrapping(ThreadPoolExecutor):
    """Turns errors of calls into errors of its own."""

    shares_memory = True

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            future.set_exception(RuntimeError(f"call failed: {error}"))
        return future


class Lazy(ThreadPoolExecutor):
    """Loses large results."""

    shares_memory = True

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        if len(str(future.result().value)) > 1_000_000:
            raise MemoryError("too large")
        return future


@pytest.mark.parametrize(
    ("executor", "check"),
    [
        (Swapping, "test_results_come_in_order"),
        (Wrapping, "test_an_error_keeps_its_type_and_message"),
        (Lazy, "test_large_arguments_and_results_come_through"),
    ],
)
def test_broken_executors_fail_the_check_that_is_made_for_them(executor, check, monkeypatch):
    entry = ExecutorEntry(name="broken", summary="broken", factory=lambda: executor(2))
    monkeypatch.setattr(registry().executors, "make", lambda _: entry.factory(), raising=False)

    class Suite(ExecutorConformance):
        name = "broken"
        has_processes = False

    with pytest.raises((AssertionError, MemoryError, RuntimeError, pytest.fail.Exception)):
        getattr(Suite(), check)()
