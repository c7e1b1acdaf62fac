"""A process that is told to end writes where it stands, once, and ends as it would have."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import pytest

from neurofm_shards import ResumableWebDatasetLoader, create_webdataset_dataloader
from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.loading import checkpoint
from neurofm_shards.loading.checkpoint import SIGNALS, SignalHandlers

SCRIPT = """
import json, signal, sys
from neurofm_shards import ResumableWebDatasetLoader, create_webdataset_dataloader
from neurofm_shards.loading import checkpoint

folder, path, kind, workers, number, mine = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
writes = []
save = checkpoint.save_state
checkpoint.save_state = lambda path, state: (writes.append(state.position), save(path, state))
def handler(signum, frame):
    print("handler saw", json.load(open(path))["position"], flush=True)
    if mine == "exits":
        sys.exit(7)
if mine != "none":
    signal.signal(number, handler)
if kind == "samples":
    loader = ResumableWebDatasetLoader(folder, path, 10**6, on_signal="checkpoint")
else:
    options = {"worker_type": kind, "checkpoint_path": path, "on_signal": "checkpoint"}
    loader = create_webdataset_dataloader(folder, 8, workers, **options)
try:
    for step, _ in enumerate(loader, 1):
        if step == 5:
            signal.raise_signal(number)
            print("still here", flush=True)
            break
finally:
    print("writes", *writes, flush=True)
"""


def told(tmp_path, folder, number, kind="thread", workers=2, mine="none"):
    arguments = [folder, tmp_path / "state.json", kind, str(workers), str(int(number)), mine]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    return done, json.loads((tmp_path / "state.json").read_text())["position"]


@pytest.mark.parametrize(("kind", "workers"), [("samples", 0), ("thread", 0), ("thread", 2), ("process", 2)])
def test_a_signal_writes_the_last_position_before_the_process_ends_by_it(tmp_path, written, kind, workers):
    done, position = told(tmp_path, written[0], SIGNALS[workers % 2], kind, workers)
    assert done.returncode == -SIGNALS[workers % 2], done.stderr
    assert position == (5 if kind == "samples" else 40)
    assert list(tmp_path.iterdir()) == [tmp_path / "state.json"]


@pytest.mark.parametrize(("mine", "code", "lines"), [("exits", 7, 1), ("stays", 0, 2)])
def test_a_handler_that_was_there_comes_next_and_the_position_is_written_once(tmp_path, written, mine, code, lines):
    done, position = told(tmp_path, written[0], signal.SIGUSR1, mine=mine)
    assert done.returncode == code, done.stderr
    assert position == 40
    assert done.stdout.splitlines() == ["handler saw 40", "still here", "writes 40"][:: 3 - lines]


def test_handlers_are_put_back(written, tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]
    make = {"checkpoint_path": tmp_path / "state.json", "on_signal": "checkpoint"}
    loader = create_webdataset_dataloader(written[0], 8, 0, **make)
    for _ in loader:
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_handlers_that_are_removed_in_another_order_stay_out_of_the_way():
    seen, number = [], SIGNALS[1]
    original = signal.signal(number, lambda *_: seen.append("first of all"))
    try:
        one = SignalHandlers(lambda: seen.append("one"))
        two = SignalHandlers(lambda: seen.append("two"))
        one.remove()
        signal.raise_signal(number)
        assert seen == ["two", "first of all"]
        two.remove()
        signal.raise_signal(number)
        assert seen == ["two", "first of all"] * 1 + ["first of all"]
    finally:
        signal.signal(number, original)


def test_another_thread_is_refused(written, tmp_path):
    loader = create_webdataset_dataloader(
        written[0], 8, 0, checkpoint_path=tmp_path / "state.json", on_signal="checkpoint"
    )
    errors = []

    def iterate():
        try:
            next(iter(loader))
        except ConfigError as error:
            errors.append(str(error))

    thread = threading.Thread(target=iterate)
    thread.start()
    thread.join(300)
    assert "main thread" in errors[0]


def test_a_data_loader_continues_from_its_checkpoint(written, tmp_path):
    def make(**options):
        return create_webdataset_dataloader(written[0], 8, 0, checkpoint_path=tmp_path / "state.json", **options)

    def rows(batch):
        return [each["row"] for each in batch["metadata"]]

    expected = [rows(batch) for batch in create_webdataset_dataloader(written[0], 8, 0)]
    for step, _ in enumerate(make(), 1):
        if step == 4:
            break
    assert [rows(batch) for batch in make()] == expected[4:]
    assert make().epoch == 1
    with pytest.raises(StateError, match="seed"):
        make(seed=1)


@pytest.mark.parametrize("make", [create_webdataset_dataloader, ResumableWebDatasetLoader])
def test_what_cannot_be_is_refused(written, tmp_path, make):
    with pytest.raises(ConfigError, match="checkpoint_path"):
        make(written[0], on_signal="checkpoint")
    with pytest.raises(ConfigError, match="'restart'"):
        make(written[0], checkpoint_path=tmp_path / "x", on_signal="restart")
    assert checkpoint.SIGNALS == (signal.SIGTERM, signal.SIGUSR1)
