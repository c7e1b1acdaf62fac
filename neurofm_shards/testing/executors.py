"""What every executor must do: each check runs real calls and real conversions on it."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from neurofm_shards.convert.dispatch import Call, Dispatcher, Failure, WorkerContext, dispatcher, run_call
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import ConfigError, PluginError, WorkerError
from neurofm_shards.events import CallRetried, Event
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Samples, Source
from neurofm_shards.plugins.registry import registry
from neurofm_shards.plugins.toolkit import file_fingerprint
from neurofm_shards.types import Block, ColumnSpec, SourcePlan

#: A hang is given minutes: no check passes or fails by how fast a machine is.
_HANG_S = 300.0
_NAP_S = 3600.0
#: One of many calls takes this long, so that a busy machine has not made half of them before the error is seen.
_NOTE_S = 0.05
#: What waited for a call that was ended is given this long to notice.
_END_S = 60.0


class ExecutorConformance:
    """Checks a registered executor. Set ``name`` at least.

    Attributes
    ----------
    name : str
        The executor's registered name.
    options : mapping
        Its options.
    workers : int
        How many workers it is asked for, 2 or more where it can have them.
    has_processes : bool
        Whether calls run in processes of their own; False for an executor in this process.
    survives_deaths : bool
        Whether the others go on when a worker is killed; False where all of them live and die together.
    ends_hanging_calls : bool
        Whether calls are ended that are under way when the program is interrupted, before it has ended.
    retries : int
        How often a call is done again when its worker was lost.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    workers: ClassVar[int] = 2
    has_processes: ClassVar[bool] = True
    survives_deaths: ClassVar[bool] = True
    ends_hanging_calls: ClassVar[bool] = True
    retries: ClassVar[int] = 2

    def dispatcher(self, events: list[Event] | None = None) -> AbstractContextManager[Dispatcher]:
        """Return a dispatcher on the executor under test."""
        told = [] if events is None else events
        return dispatcher({"kind": self.name, **self.options}, self.workers, retries=self.retries, listener=told.append)

    def convert(self, inputs: Sequence[str | Path], output: str | Path) -> None:
        """Convert on the executor under test."""
        chosen = {"kind": self.name, **self.options}
        convert_inputs(inputs, output, _CONFIG, executor=chosen, workers=self.workers, retries=self.retries)

    def test_results_come_in_order(self) -> None:
        """Each call's own result."""
        with self.dispatcher() as made:
            assert list(made.in_order(_calls(_twice, range(40)))) == [2 * i for i in range(40)]

    def test_large_arguments_and_results_come_through(self) -> None:
        """Ten megabytes, both ways."""
        data = os.urandom(10_000_000)
        with self.dispatcher() as made:
            assert list(made.in_order(_calls(_twice, [data]))) == [2 * data]

    def test_the_workers_see_the_output_folder_and_have_the_same_versions(self, tmp_path: Path) -> None:
        """What is looked at before anything starts."""
        with self.dispatcher() as made:
            made.check(tmp_path)
        assert not list(tmp_path.iterdir()), "a file was left in the output folder"

    def test_an_error_keeps_its_type_and_message(self) -> None:
        """Whatever the executor wraps it in."""
        with pytest.raises(ConfigError, match=r"^no such thing$"), self.dispatcher() as made:
            list(made.in_order(_calls(_fail, ["no such thing"])))

    def test_an_error_that_cannot_be_pickled_is_said(self) -> None:
        """A class that cannot be made again from its arguments."""
        with pytest.raises(Exception, match="1 and 2"), self.dispatcher() as made:
            list(made.in_order([Call(_fail_stubbornly, (), "failing")]))

    def test_a_result_that_cannot_be_pickled_is_an_error(self) -> None:
        """It does not break the workers."""
        if not self.has_processes:
            pytest.skip("nothing is pickled")
        with pytest.raises((AttributeError, TypeError, WorkerError)), self.dispatcher() as made:
            list(made.in_order([Call(threading.Lock, (), "locking")]))

    def test_a_call_that_cannot_be_pickled_is_refused(self) -> None:
        """Before it is sent."""
        if not self.has_processes:
            pytest.skip("nothing is pickled")
        with pytest.raises(PluginError, match="cannot be sent to workers"), self.dispatcher() as made:
            list(made.in_order(_calls(lambda value: value, [1])))

    def test_workers_of_another_version_are_refused(self) -> None:
        """The worker compares, and says what differs."""
        if not self.has_processes:
            pytest.skip("there is one version")
        here = WorkerContext.of_this_process()
        other = WorkerContext(here.settings, (*here.versions, ("neurofm-shards-conformance", "9.9")))
        executor = registry().executors.make({"kind": self.name, "workers": self.workers, **self.options})
        try:
            answered = executor.submit(run_call, other, pickle.dumps((_twice, (1,)))).result(_HANG_S)
            answer = pickle.loads(answered)  # noqa: S301  (made by the worker that this suite started)
        finally:
            executor.shutdown()
        assert isinstance(answer, Failure)
        assert "neurofm-shards-conformance is missing there and 9.9 here" in str(answer.error)

    def test_a_lost_worker_costs_one_more_attempt(self, tmp_path: Path) -> None:
        """A worker that is killed once."""
        if not (self.has_processes and self.survives_deaths):
            pytest.skip("a worker that dies takes this process along")
        events: list[Event] = []
        with self.dispatcher(events) as made:
            found = list(made.in_order([*_calls(_die_once, [str(tmp_path / "died")]), *_calls(_twice, range(6))]))
        assert found == ["alive", *(2 * i for i in range(6))]

    def test_a_call_that_kills_every_worker_is_named_and_given_up(self) -> None:
        """It is not tried for ever."""
        if not (self.has_processes and self.survives_deaths):
            pytest.skip("a worker that dies takes this process along")
        events: list[Event] = []
        with pytest.raises(WorkerError, match=r"while ending it all.*mode='resume'"), self.dispatcher(events) as made:
            list(made.in_order([Call(_die, (), "ending it all")]))
        assert sum(isinstance(event, CallRetried) for event in events) <= self.retries

    def test_an_interruption_ends_calls_that_hang(self, caplog: pytest.LogCaptureFixture) -> None:
        """Ctrl-C while workers do something endless; the executor is closed without an error of its own."""
        if not (self.has_processes and self.ends_hanging_calls):
            pytest.skip("calls end with the program")
        start, before = time.monotonic(), set(threading.enumerate())
        with pytest.raises(KeyboardInterrupt), self.dispatcher() as made:
            self._interrupt(made)
        assert time.monotonic() - start < _HANG_S, "leaving waits for the calls"
        for thread in {thread for thread in threading.enumerate() if not thread.daemon} - before:
            thread.join(_END_S)
            assert not thread.is_alive(), f"{thread.name} waits for a call, so that Python cannot exit: end its worker"
        assert "could not be closed" not in caplog.text

    def test_after_an_error_nothing_new_is_started(self, tmp_path: Path) -> None:
        """What is queued is cancelled."""
        calls = [Call(_note, (str(tmp_path), i), f"noting {i}") for i in range(2000)]
        with pytest.raises(ConfigError), self.dispatcher() as made:
            list(made.in_order([*calls[:1], *_calls(_fail, ["stop"]), *calls[1:]]))
        time.sleep(1)
        assert len(list(tmp_path.iterdir())) < 1000

    def test_conversions_give_the_bytes_of_one_worker(self, conformance_inputs: list[str], tmp_path: Path) -> None:
        """The whole data set, file by file."""
        convert_inputs(conformance_inputs, tmp_path / "one", _CONFIG)
        self.convert(conformance_inputs, tmp_path / "many")
        assert _tree(tmp_path / "many") == _tree(tmp_path / "one")

    def test_relative_paths_mean_the_folder_of_the_program(
        self, conformance_inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Workers may run in another folder."""
        with self.dispatcher() as made:
            list(made.in_order(_calls(os.chdir, ["/"] * self.workers)) if self.has_processes else [])
            convert_inputs(conformance_inputs, tmp_path / "one", _CONFIG)
            monkeypatch.chdir(Path(conformance_inputs[0]).parent)
            self.convert([Path(path).name for path in conformance_inputs], Path("..") / "relative")
        assert _tree(tmp_path / "relative") == _tree(tmp_path / "one")

    @pytest.fixture
    def conformance_inputs(self, tmp_path: Path) -> Iterator[list[str]]:
        """Give inputs of a source that is registered in code, as a notebook may do it."""
        (tmp_path / "in").mkdir()
        for i in range(3):
            (tmp_path / "in" / f"s{i}.numbers").write_text(str(20 + i))
        registry().sources.register(
            SourceEntry(
                name="conformance-numbers",
                summary="for checks of executors",
                factory="neurofm_shards.testing.executors:NumbersSource",
                suffixes=(".numbers",),
            )
        )
        yield [str(path) for path in sorted((tmp_path / "in").iterdir())]
        registry().sources.unregister("conformance-numbers")

    @staticmethod
    def _interrupt(made: Dispatcher) -> None:
        for answers in made.as_they_come([Call(_twice, (1,), "beginning"), *_calls(_nap, [_NAP_S] * 8)]):
            if any(answer.value == 2 for answer in answers):
                raise KeyboardInterrupt


_CONFIG = {"shard_size": 6, "compression": "gz"}


def _calls(function: Any, arguments: Any) -> list[Call[Any]]:
    return [Call(function, (argument,), f"calling {str(argument)[:40]}") for argument in arguments]


def _twice(value: Any) -> Any:
    return 2 * value


def _fail(text: str) -> None:
    raise ConfigError(text)


class _StubbornError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def _fail_stubbornly() -> None:
    raise _StubbornError(1, 2)


def _nap(seconds: float) -> None:
    time.sleep(seconds)


def _note(folder: str, i: int) -> None:
    time.sleep(_NOTE_S)
    (Path(folder) / str(i)).touch()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once(path: str) -> str:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "alive"
    os.kill(os.getpid(), signal.SIGKILL)
    return "dead"


class NumbersSource(Source):
    """Files that say how many samples they give."""

    def open(self, paths: tuple[str, ...]) -> Samples:
        """Return the samples of a file."""
        return NumberSamples(paths[0])


class NumberSamples(Samples):
    """Rows of multiples of their numbers."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._count = int(Path(path).read_text())

    def plan(self) -> SourcePlan:
        """Say how many samples there are."""
        columns = (ColumnSpec("x", "<i8", (4,)),)
        name = {"session_id": Path(self._path).stem}
        return SourcePlan(self._count, columns, file_fingerprint([self._path]), metadata=name)

    def read(self, start: int, stop: int) -> Block:
        """Return samples."""
        rows = np.arange(start, stop, dtype="<i8")
        return Block({"x": rows[:, None] * np.arange(1, 5)}, [{"row": int(row)} for row in rows])


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
