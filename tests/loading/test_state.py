"""States: small, tied to their data and settings, never silently wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards import ResumableWebDatasetLoader, create_webdataset_dataloader
from neurofm_shards.errors import ConfigError, StateError
from neurofm_shards.loading.plans.options import PlanOptions
from neurofm_shards.loading.plans.plan import SinglePlan
from neurofm_shards.loading.state import MAX_STATE_BYTES, SIGNALS, LoaderState, SignalHandlers, read_state, save_state


def state_of(plan, epoch=0, position=0):
    return LoaderState.from_dict(json.loads(json.dumps(LoaderState.of(plan, epoch, position).to_dict())))


@given(st.integers(0, 2**40), st.integers(0, 70), st.sampled_from([True, False, "global"]))
def test_a_state_survives_json_and_leads_back_to_its_position(stored, epoch, position, mode):
    plan = SinglePlan(stored([30, 40]), PlanOptions(shuffle=mode))
    again = state_of(plan, epoch, position).resume(
        SinglePlan(stored([30, 40]), PlanOptions(shuffle=mode, batch_size=7, world_size=3))
    )
    assert again == ((epoch, position) if position < 70 else (epoch + 1, 0))


def test_a_state_names_shard_and_offset(stored):
    found = LoaderState.of(SinglePlan(stored([30, 40]), PlanOptions(shuffle=False)), 2, 35).to_dict()
    assert (found["shard_idx"], found["sample_offset"], found["epoch"], found["position"]) == (1, 35, 2, 35)


def test_a_state_is_smaller_than_a_kilobyte(stored):
    plan = SinglePlan(
        stored([2**40] * 9), PlanOptions(shuffle=True, seed=2**63, buffer_size=2**40), subset=np.arange(5)
    )
    assert len(json.dumps(LoaderState.of(plan, 2**50, 3).to_dict(), indent=2)) < MAX_STATE_BYTES


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seed": 1}, "seed was 42, is 1"),
        ({"shuffle": "global"}, "shuffle was True, is global"),
        ({"buffer_size": 9}, "buffer_size was 1000, is 9"),
        ({"shuffle_shards": False}, "shuffle_shards was True, is False"),
        ({"subset": np.arange(3)}, "the selected samples was not set, is"),
    ],
)
def test_a_state_of_other_settings_is_refused_naming_them(stored, settings, says):
    state = state_of(SinglePlan(stored([30, 40])), 0, 10)
    options = PlanOptions(**{name: value for name, value in settings.items() if name != "subset"})
    other = SinglePlan(stored([30, 40]), options, settings.get("subset"))
    with pytest.raises(StateError, match=says):
        state.resume(other)


def test_a_state_of_another_data_set_is_refused(stored):
    state = state_of(SinglePlan(stored([30, 40])), 0, 10)
    with pytest.raises(StateError, match="fingerprint was .*load the data set it was saved with"):
        state.resume(SinglePlan(stored([30, 40], "other")))


def test_a_state_of_another_ordering_algorithm_is_refused(stored):
    found = LoaderState.of(SinglePlan(stored([30])), 0, 10).to_dict()
    found["identity"] = {**found["identity"], "order_version": 0}
    with pytest.raises(StateError, match="version of the ordering algorithm was 0, is 1"):
        LoaderState.from_dict(found).resume(SinglePlan(stored([30])))


def test_appended_samples_are_accepted_in_storage_order(stored):
    assert state_of(SinglePlan(stored([30, 40]), PlanOptions(shuffle=False)), 0, 50).resume(
        SinglePlan(stored([30, 40, 5]), PlanOptions(shuffle=False))
    ) == (
        0,
        50,
    )


@pytest.mark.parametrize("mode", [True, "global"])
def test_appended_samples_are_accepted_between_shuffled_epochs_only(stored, mode):
    longer = SinglePlan(stored([30, 40, 5]), PlanOptions(shuffle=mode))
    assert state_of(SinglePlan(stored([30, 40]), PlanOptions(shuffle=mode)), 0, 70).resume(longer) == (1, 0)
    with pytest.raises(StateError, match=r"appended .* at sample 69 of epoch 0.*set_epoch\(1\)"):
        state_of(SinglePlan(stored([30, 40]), PlanOptions(shuffle=mode)), 0, 69).resume(longer)


def test_appended_samples_leave_a_subset_of_the_old_ones_recognisable(stored):
    older = SinglePlan(stored([30, 40]), PlanOptions(shuffle=False), subset=np.array([3, 50]))
    newer = SinglePlan(stored([30, 40, 5]), PlanOptions(shuffle=False), subset=np.array([3, 50, 72]))
    other = SinglePlan(stored([30, 40, 5]), PlanOptions(shuffle=False), subset=np.array([4, 50, 72]))
    assert state_of(older, 0, 1).resume(newer) == (0, 1)
    with pytest.raises(StateError, match="the selected samples was"):
        state_of(older, 0, 1).resume(other)


def test_a_data_set_that_became_shorter_is_refused(stored):
    with pytest.raises(StateError, match="number of shards was 2, is 1"):
        state_of(SinglePlan(stored([30, 40]), PlanOptions(shuffle=False)), 0, 10).resume(
            SinglePlan(stored([30]), PlanOptions(shuffle=False))
        )


@given(st.integers(0, 400))
def test_a_torn_checkpoint_is_an_error(tmp_path_factory, stored, kept):
    path = tmp_path_factory.mktemp("torn") / "checkpoint.json"
    save_state(path, LoaderState.of(SinglePlan(stored([30])), 1, 5))
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    if kept >= len(whole):
        assert read_state(path).position == 5
    else:
        with pytest.raises(StateError, match="not a whole checkpoint"):
            read_state(path)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "7",
        '"x"',
        "{}",
        "\x00" * 50,
        "\xff",
        "[" * 1000,
        '{"a":' * 150,
        "x" * 5000,
        '{"shard_idx": 3, "sample_offset": 7}',
        '{"version": 1, "version": 1}',
    ],
)
def test_a_foreign_file_is_an_error(tmp_path, text):
    path = tmp_path / "checkpoint.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(StateError, match="not a whole checkpoint"):
        read_state(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", -1),
        ("epoch", True),
        ("epoch", 1.0),
        ("epoch", 2**63),
        ("position", "5"),
        ("position", float("nan")),
        ("sample_offset", 4),
        ("identity", None),
        ("identity", [1]),
        ("shard_idx", -2),
        ("version", 2),
    ],
)
def test_hostile_values_are_refused(stored, key, value):
    found = {**LoaderState.of(SinglePlan(stored([30])), 1, 5).to_dict(), key: value}
    with pytest.raises(StateError):
        LoaderState.from_dict(found)


def test_a_position_beyond_the_epoch_is_refused(stored):
    state = LoaderState(0, 31, SinglePlan(stored([30])).identity())
    with pytest.raises(StateError, match="stands at sample 31 of epoch 0, which has only 30"):
        state.resume(SinglePlan(stored([30])))


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(StateError, match="no regular file"):
        read_state(tmp_path)


SAVES = """
import sys, numpy as np
from neurofm_shards.loading.state import SIGNALS, LoaderState, save_state
position = 0
while True:
    position += 1
    if position == 2:
        print("saved once", flush=True)
    save_state(sys.argv[1], LoaderState(0, position, {"dataset": "x" * 600}))
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.json"
    for i in range(5):
        process = subprocess.Popen([sys.executable, "-c", SAVES, str(path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.05 + 0.013 * i)
        process.kill()
        process.communicate()
        assert read_state(path).position > 0


SCRIPT = """
import json, signal, sys
from neurofm_shards import ResumableWebDatasetLoader, create_webdataset_dataloader
from neurofm_shards.loading import state

folder, path, kind, workers, number, mine = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
writes = []
save = state.save_state
state.save_state = lambda path, what: (writes.append(what.position), save(path, what))
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
    assert SIGNALS == (signal.SIGTERM, signal.SIGUSR1)
