"""WebDatasetLoader: every sample once per epoch, alone or inside a DataLoader with workers."""

from __future__ import annotations

import inspect
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from neurofm_shards import WebDatasetLoader, WebDatasetWriter
from neurofm_shards.errors import FormatError, NoShardsError, StateError


def row(sample):
    return sample["metadata"]["row"]


def test_signature_is_that_of_the_quick_reference():
    parameters = inspect.signature(WebDatasetLoader).parameters
    defaults = {name: parameter.default for name, parameter in islice(parameters.items(), 1, 7)}
    assert defaults == {
        "shard_pattern": "shard_*.tar*",
        "shuffle": True,
        "shuffle_shards": True,
        "buffer_size": 1000,
        "seed": 42,
        "decode": True,
    }


def test_samples_are_dicts_of_tensors_with_metadata(written):
    folder, arrays = written
    loader = WebDatasetLoader(folder)
    assert isinstance(loader, IterableDataset)
    for sample in loader:
        assert set(sample) == {"x", "y", "metadata"}
        assert isinstance(sample["x"], torch.Tensor)
        assert np.array_equal(sample["x"].numpy(), arrays["x"][row(sample)])
        assert np.array_equal(sample["y"].numpy(), arrays["y"][row(sample)])


@pytest.mark.parametrize("shuffle", [True, "global"])
def test_each_epoch_has_every_sample_once_in_another_order(written, shuffle):
    loader = WebDatasetLoader(written[0], shuffle=shuffle)
    epochs = [[row(sample) for sample in loader] for _ in range(3)]
    assert all(sorted(epoch) == list(range(103)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = WebDatasetLoader(written[0], shuffle=shuffle)
    again.set_epoch(2)
    assert [row(sample) for sample in again] == epochs[2]
    assert len(loader) == 103


def test_without_shuffling_samples_come_in_storage_order(written):
    assert [row(sample) for sample in WebDatasetLoader(written[0], shuffle=False)] == list(range(103))


def test_stopping_early_and_starting_again_is_the_next_epoch(written):
    loader = WebDatasetLoader(written[0])
    list(islice(loader, 7))
    second = [row(sample) for sample in loader]
    fresh = WebDatasetLoader(written[0])
    fresh.set_epoch(1)
    assert second == [row(sample) for sample in fresh]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_inside_a_dataloader_the_workers_share_the_samples_of_every_epoch(written, num_workers):
    loader = DataLoader(WebDatasetLoader(written[0]), batch_size=None, num_workers=num_workers)
    epochs = [[row(sample) for sample in loader] for _ in range(2)]
    assert all(sorted(epoch) == list(range(103)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_persistent_dataloader_workers_go_on_to_the_next_epoch_and_hear_set_epoch(written):
    dataset = WebDatasetLoader(written[0])
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    epochs = [[row(sample) for sample in loader] for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    dataset.set_epoch(1)
    assert [row(sample) for sample in loader] == epochs[1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_and_workers_together_give_each_sample_once(tmp_path, num_workers):
    with WebDatasetWriter(tmp_path, shard_size=10) as writer:
        for i in range(96):
            writer.write_sample({"x": np.zeros(2)}, metadata={"row": i})
    found = []
    for rank in range(3):
        dataset = WebDatasetLoader(tmp_path, rank=rank, world_size=3)
        samples = [row(sample) for sample in DataLoader(dataset, batch_size=None, num_workers=num_workers)]
        assert len(samples) == len(dataset) == 32
        found += samples
    assert sorted(found) == list(range(96))


def test_decode_false_gives_the_stored_bytes(written):
    import io
    import tarfile

    with tarfile.open(written[0] / "shard_000000.tar") as tar:
        member = next(each for each in tar if each.name.startswith("k000.x."))
        stored = io.BytesIO(tar.extractfile(member).read()).getvalue()
    sample = next(iter(WebDatasetLoader(written[0], shuffle=False, decode=False)))
    assert sample["x"] == stored
    assert isinstance(sample["metadata"], bytes)


def test_transforms_columns_selection_and_no_metadata(written):
    folder, arrays = written
    loader = WebDatasetLoader(
        folder, shuffle=False, columns=["x"], where='subject == "M0"', metadata=False, transform=lambda s: s["x"] + 1
    )
    assert len(loader) == 35
    for number, x in enumerate(loader):
        assert np.array_equal(x.numpy(), arrays["x"][3 * number] + 1)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(NoShardsError, match=f"No shards found in {tmp_path} matching"):
        WebDatasetLoader(tmp_path)


@pytest.mark.parametrize("stop", [0, 1, 15, 16, 17, 64, 65, 102])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_state_continues_behind_the_last_delivered_sample(written, stop, shuffle):
    loader = WebDatasetLoader(written[0], shuffle=shuffle)
    iterator = iter(loader)
    first = [row(sample) for sample in islice(iterator, stop)]
    state = loader.get_state()
    assert state["sample_offset"] == stop
    assert 0 <= state["shard_idx"] < 7
    rest = [row(sample) for sample in iterator]
    other = WebDatasetLoader(written[0], shuffle=shuffle)
    other.set_state(state)
    assert [row(sample) for sample in other] == rest
    assert sorted(first + rest) == list(range(103))
    assert [row(sample) for sample in other] == [row(sample) for sample in loader]  # and so does the next epoch


def test_a_state_of_other_settings_is_refused_with_what_differs(written):
    state = WebDatasetLoader(written[0], seed=1).state_dict()
    with pytest.raises(StateError, match="seed was 1, is 42"):
        WebDatasetLoader(written[0]).load_state_dict(state)


def test_set_epoch_keeps_a_position_that_was_loaded_for_that_epoch(written):
    loader = WebDatasetLoader(written[0])
    loader.set_epoch(3)
    iterator = iter(loader)
    list(islice(iterator, 50))
    state, rest = loader.state_dict(), [row(sample) for sample in iterator]
    other = WebDatasetLoader(written[0])
    other.load_state_dict(state)
    other.set_epoch(3)  # as training loops do at the top of every epoch
    assert [row(sample) for sample in other] == rest


def test_damaged_samples_are_left_out_when_asked(tmp_path):
    with WebDatasetWriter(tmp_path, shard_size=50) as writer:
        for i in range(150):
            writer.write_sample({"x": np.full(16, i, np.float32)}, metadata={"row": i})
    path = tmp_path / "shard_000001.tar"
    content = bytearray(path.read_bytes())
    content[content.index(np.full(16, 60, np.float32).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match="sample_0+61"):
        list(WebDatasetLoader(tmp_path, verify=True))
    loader = WebDatasetLoader(tmp_path, verify=True, on_error="skip")
    assert sorted(row(sample) for sample in loader) == [i for i in range(150) if i != 60]
    assert loader.skips.total == 1


def test_too_many_damaged_samples_in_a_row_stop_the_loader(tmp_path):
    with WebDatasetWriter(tmp_path, shard_size=150) as writer:
        for i in range(300):
            writer.write_sample({"x": np.full(16, i, np.float32)}, metadata={"row": i})
    path = tmp_path / "shard_000001.tar"
    content = bytearray(path.read_bytes())
    for i in range(150, 300):
        content[content.index(np.full(16, i, np.float32).tobytes())] ^= 1
    path.write_bytes(content)
    loader = WebDatasetLoader(tmp_path, shuffle=False, verify=True, on_error="skip")
    with pytest.raises(FormatError, match="100 samples in a row"):
        list(loader)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own call
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 5, 11, 12, 13])
def test_inside_a_stateful_dataloader(written, num_workers, stop):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        return stateful.StatefulDataLoader(
            WebDatasetLoader(written[0]),
            batch_size=8,
            num_workers=num_workers,
            collate_fn=lambda samples: [*map(row, samples)],
        )

    one = loader()
    iterator = iter(one)
    first = [batch for _, batch in zip(range(stop), iterator, strict=False)]
    state = one.state_dict()
    rest = list(iterator)
    assert sorted(row for batch in first + rest for row in batch) == list(range(103))
    other = loader()
    other.load_state_dict(state)
    continued = list(other)
    if rest:  # a finished epoch resumes at the next
        assert continued == rest
    second = list(one)
    assert second != first + rest
    assert sorted(row for batch in second for row in batch) == list(range(103))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own call
@pytest.mark.parametrize("stop", [1, 7, 17])
def test_two_ranks_of_two_workers_inside_a_stateful_dataloader_continue(tmp_path, stop):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    with WebDatasetWriter(tmp_path, shard_size=60) as writer:
        for i in range(600):
            writer.write_sample({"x": np.zeros(2)}, metadata={"row": i})

    def loader(rank):
        samples = WebDatasetLoader(tmp_path, rank=rank, world_size=2)
        return stateful.StatefulDataLoader(
            samples, batch_size=16, num_workers=2, collate_fn=lambda samples: [*map(row, samples)]
        )

    found = []
    for rank in range(2):
        one, other = loader(rank), loader(rank)
        iterator = iter(one)
        found += [row for batch in islice(iterator, stop) for row in batch]
        other.load_state_dict(one.state_dict())
        found += [row for batch in other for row in batch]
    assert sorted(found) == list(range(600))


def test_a_worker_refuses_the_state_of_another_number_of_workers(written, monkeypatch):
    loader = WebDatasetLoader(written[0])
    monkeypatch.setattr("neurofm_shards.loading.loaders.worker_place", lambda: (1, 3))
    state = loader.state_dict()
    monkeypatch.setattr("neurofm_shards.loading.loaders.worker_place", lambda: (0, 2))
    with pytest.raises(StateError, match="worker 1 of 3.*worker 0 of 2.*create_webdataset_dataloader"):
        loader.load_state_dict(state)
