"""create_webdataset_dataloader: a torch DataLoader whose batches are the samples, in one order, whoever makes them."""

from __future__ import annotations

import gc
import inspect
import pickle
import sys
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.collate import default_convert

from neurofm_shards import WebDatasetWriter, create_webdataset_dataloader
from neurofm_shards.errors import ConfigError, FormatError, NoShardsError
from neurofm_shards.loading.plans.mixing import mix
from neurofm_shards.plugins.interfaces import Transform
from neurofm_shards.reading.collection import ShardCollection


def rows_of(batch):
    return [each["row"] for each in batch["metadata"]]


def equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


def double(sample):
    return {**sample, "x": sample["x"] * 2, "row": sample["metadata"]["row"]}


class Shift(Transform):
    holds_gil = False

    def __call__(self, sample, metadata):
        return {**sample, "x": sample["x"] + metadata["row"]}


def test_signature_is_that_of_the_quick_reference():
    parameters = inspect.signature(create_webdataset_dataloader).parameters
    assert list(parameters)[:7] == [
        *("shard_dir", "batch_size", "num_workers", "shuffle", "buffer_size", "prefetch_factor", "pin_memory"),
    ]
    given = {"batch_size": 32, "num_workers": 4, "shuffle": True, "buffer_size": 1000, "prefetch_factor": 2}
    assert {name: parameters[name].default for name in given} == given
    assert parameters["pin_memory"].default is True
    assert parameters["drop_last"].default is False


def test_it_is_a_torch_dataloader_that_says_what_it_was_made_with(written):
    loader = create_webdataset_dataloader(written[0], 10, 3)
    assert isinstance(loader, DataLoader)
    assert (loader.batch_size, loader.num_workers, loader.drop_last, loader.prefetch_factor) == (10, 3, False, 2)
    assert len(loader) == 11
    assert len(loader.dataset) == 103


def test_nothing_warns_without_an_accelerator(written):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in create_webdataset_dataloader(written[0], num_workers=64, pin_memory=True):
            pass


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True, "global"])
def test_each_epoch_has_every_sample_once_with_its_own_values(written, num_workers, shuffle):
    folder, arrays = written
    loader = create_webdataset_dataloader(folder, 10, num_workers, shuffle)
    orders = []
    for _ in range(3):
        rows = []
        for batch in loader:
            rows += rows_of(batch)
            for name, values in arrays.items():
                assert np.array_equal(batch[name].numpy(), values[rows_of(batch)])
                assert batch[name].numpy().dtype == values.dtype
        assert sorted(rows) == list(range(103))
        orders.append(rows)
    assert len({tuple(order) for order in orders}) == (1 if shuffle is False else 3)
    again = create_webdataset_dataloader(folder, 10, num_workers, shuffle)
    assert [row for batch in again for row in rows_of(batch)] == orders[0]


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize("num_workers", [1, 2, 7])
def test_batches_are_the_same_to_the_bit_whoever_makes_them(written, kind, num_workers):
    options = {"transform": double, "shuffle": True, "buffer_size": 20}
    reference = create_webdataset_dataloader(written[0], 9, 0, **options)
    loader = create_webdataset_dataloader(written[0], 9, num_workers, worker_type=kind, **options)
    for _ in range(2):
        for one, other in zip(reference, loader, strict=True):
            equal(one, other)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_divide_the_global_batches_of_one_rank(written, world_size):
    whole = [rows_of(batch) for batch in create_webdataset_dataloader(written[0], 8, 0, rank=0, world_size=1)]
    ranks = [
        create_webdataset_dataloader(written[0], 8 // world_size, 2, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for expected, *shares in zip(whole, *ranks, strict=True):
        found = [row for share in shares for row in rows_of(share)]
        assert found[: len(expected)] == expected


@pytest.mark.parametrize(("drop_last", "expected"), [(False, 11), (True, 10)])
def test_len_is_exact(written, drop_last, expected):
    loader = create_webdataset_dataloader(written[0], 10, 2, drop_last=drop_last)
    batches = list(loader)
    assert len(loader) == len(batches) == expected
    assert len(batches[-1]["x"]) == (10 if drop_last else 3)


def test_metadata_is_a_list_that_is_decoded_when_it_is_looked_at(written):
    (batch, *_) = create_webdataset_dataloader(written[0], 10, 0, False)
    metadata = batch["metadata"]
    assert isinstance(metadata, list)
    assert len(metadata) == 10
    assert not metadata.decoded
    assert metadata[3]["row"] == 3
    assert metadata.decoded
    assert [each["row"] for each in metadata] == list(range(10))


@pytest.mark.parametrize(
    "use", [list, len, repr, tuple, lambda found: sorted(found, key=str), lambda found: found[-2:]]
)
def test_metadata_that_was_not_looked_at_yet_behaves_as_the_list(written, use):
    (one, *_) = create_webdataset_dataloader(written[0], 10, 0, False)
    (other, *_) = create_webdataset_dataloader(written[0], 10, 0, False)
    plain = list(other["metadata"])
    assert use(one["metadata"]) == use(plain)
    assert one["metadata"] == plain
    assert plain == one["metadata"]
    (again, *_) = create_webdataset_dataloader(written[0], 10, 0, False)
    assert one["metadata"] == again["metadata"]
    (again, *_) = create_webdataset_dataloader(written[0], 10, 0, False)
    assert plain + again["metadata"] == plain * 2
    assert pickle.loads(pickle.dumps(other["metadata"])) == plain


def test_metadata_can_be_rebuilt_by_its_type_as_frameworks_do(written):
    (batch, *_) = create_webdataset_dataloader(written[0], 10, 0, False)
    plain = list(batch["metadata"])
    assert type(batch["metadata"])(dict(each) for each in batch["metadata"]) == plain
    assert default_convert(batch)["metadata"] == plain


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_processes_leave_metadata_undecoded_too(written, kind):
    loader = create_webdataset_dataloader(written[0], 10, 2, False, worker_type=kind)
    for number, batch in enumerate(loader):
        assert not batch["metadata"].decoded
        assert rows_of(batch) == list(range(10 * number, min(10 * number + 10, 103)))


def test_metadata_can_be_left_out(written):
    (batch, *_) = create_webdataset_dataloader(written[0], 10, 0, metadata=False)
    assert set(batch) == {"x", "y"}


def test_only_the_columns_asked_for_are_there(written):
    (batch, *_) = create_webdataset_dataloader(written[0], 10, 0, columns=["y"])
    assert set(batch) == {"y", "metadata"}
    with pytest.raises(ConfigError, match="no column 'z'.*there are: x, y"):
        create_webdataset_dataloader(written[0], columns=["z"])


def test_selections_by_expression_key_and_row(written):
    def rows(**selection):
        return sorted(
            row for batch in create_webdataset_dataloader(written[0], 10, 0, **selection) for row in rows_of(batch)
        )

    assert rows(where='subject == "M1"') == list(range(1, 103, 3))
    assert rows(keys=["k007", "k003"]) == [3, 7]
    assert rows(rows=[5, 1, 9], where="row > 1") == [5, 9]
    with pytest.raises(ConfigError, match="select none"):
        rows(where="row > 1000")


def test_the_sampler_gives_the_same_samples_through_random_access(written):
    for selection in ({}, {"where": 'subject == "M2"'}):
        loader = create_webdataset_dataloader(written[0], 10, 2, **selection)
        plain = DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=list)
        expected = [[sample["metadata"]["row"] for sample in samples] for samples in plain]
        assert [rows_of(batch) for batch in loader] == expected


def test_transforms_run_on_arrays_then_on_samples_then_on_batches(written):
    folder, arrays = written
    loader = create_webdataset_dataloader(
        folder,
        10,
        2,
        False,
        transforms=Shift(),
        transform=double,
        batch_transform=lambda batch: (batch["x"], batch["row"]),
    )
    for x, row in loader:
        shifted = (arrays["x"][row] + row.numpy()[:, None, None].astype(np.float32)) * 2
        assert torch.allclose(x, torch.from_numpy(shifted))


def test_a_transform_object_is_also_taken_as_transform(written):
    folder, arrays = written
    (batch, *_) = create_webdataset_dataloader(folder, 10, 0, False, transform=Shift())
    assert np.allclose(batch["x"].numpy(), arrays["x"][:10] + np.arange(10)[:, None, None])


def test_a_transform_that_changes_metadata_is_heard(written):
    class Marks(Transform):
        def __call__(self, sample, metadata):
            metadata["seen"] = True
            return sample

    for kind in ("thread", "process"):
        for batch in create_webdataset_dataloader(written[0], 10, 2, transforms=[Marks()], worker_type=kind):
            assert all(each["seen"] for each in batch["metadata"])


def test_a_transform_that_drops_samples_is_refused(written):
    class Drops(Transform):
        def __call__(self, sample, metadata):
            return None if metadata["row"] == 4 else sample

    with pytest.raises(ConfigError, match="Drops dropped 1 of 10 samples"):
        list(create_webdataset_dataloader(written[0], 10, 0, False, transforms=[Drops()]))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "thread"),
        ({"transform": double}, "process"),
        ({"transforms": Shift()}, "thread"),
        ({"batch_transform": dict}, "thread"),
        ({"transform": double, "worker_type": "thread"}, "thread"),
        ({"worker_type": "process"}, "process"),
    ],
)
def test_workers_are_threads_unless_a_transform_holds_the_gil(written, options, kind):
    assert create_webdataset_dataloader(written[0], **options).setup.workers.kind == kind


def test_a_mixture_takes_the_place_of_a_folder(written, tmp_path):
    folder, arrays = written
    with WebDatasetWriter(tmp_path, shard_size=16) as writer:
        for i in range(40):
            writer.write_sample({"x": arrays["x"][i] + 500, "y": arrays["y"][i]}, metadata={"row": 1000 + i})
    collections = [ShardCollection.open(folder), ShardCollection.open(tmp_path)]
    found = []
    for kind in ("thread", "process"):
        loader = create_webdataset_dataloader(mix(collections), 10, 2, worker_type=kind)
        rows = []
        for batch in loader:
            for row, x in zip(rows_of(batch), batch["x"], strict=True):
                expected = arrays["x"][row] if row < 1000 else arrays["x"][row - 1000] + 500
                assert np.array_equal(x.numpy(), expected)
            rows += rows_of(batch)
        assert sorted(rows) == [*range(103), *range(1000, 1040)]
        assert len(loader.dataset) == 143
        found.append(rows)
    assert found[0] == found[1]
    with pytest.raises(ConfigError, match="where= cannot be used with a mixture"):
        create_webdataset_dataloader(mix(collections), where="row > 3")


def test_kept_batches_never_change(written):
    folder, arrays = written
    for kind in ("thread", "process"):
        for batch in list(create_webdataset_dataloader(folder, 10, 2, worker_type=kind)):
            assert np.array_equal(batch["x"].numpy(), arrays["x"][rows_of(batch)])


def test_folders_without_shards_are_refused(tmp_path):
    with pytest.raises(NoShardsError, match=f"No shards found in {tmp_path} matching"):
        create_webdataset_dataloader(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"num_workers": -1}, {"prefetch_factor": 0}, {"batch_size": 0}, {"worker_type": "fiber"}),
        *({"on_error": "ignore"}, {"even": "maybe"}, {"shuffle": "random"}, {"ragged": "stack"}, {"counts": "int"}),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_batch(written, wrong):
    with pytest.raises(ConfigError):
        create_webdataset_dataloader(written[0], **wrong)


def test_ranks_that_cannot_share_evenly_are_refused_before_the_first_batch(written):
    with pytest.raises(ConfigError, match="cannot share evenly"):
        create_webdataset_dataloader(written[0], 10, 0, rank=0, world_size=2, even="error")


@pytest.fixture
def damaged(tmp_path):
    """Shards of which two samples have a flipped bit."""
    with WebDatasetWriter(tmp_path, shard_size=16) as writer:
        for i in range(40):
            writer.write_sample({"x": np.full(64, i, np.float32)}, metadata={"row": i})
    for shard, value in ((0, 5), (1, 20)):
        path = tmp_path / f"shard_{shard:06d}.tar"
        content = bytearray(path.read_bytes())
        at = content.index(np.full(64, value, np.float32).tobytes())
        content[at + 8] ^= 1
        path.write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_damaged_samples_stop_the_loader_or_are_left_out_and_counted(damaged, kind, caplog):
    with pytest.raises(FormatError, match=r"sample_0+6.*shard_000000\.tar"):
        list(create_webdataset_dataloader(damaged, 8, 2, False, verify=True, worker_type=kind))
    loader = create_webdataset_dataloader(damaged, 8, 2, verify=True, on_error="skip", worker_type=kind)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert sorted(row for batch in batches for row in rows_of(batch)) == [i for i in range(40) if i not in (5, 20)]
    assert all(batch["x"][k, 0] == row for batch in batches for k, row in enumerate(rows_of(batch)))
    assert loader.skips.total == 2
    assert caplog.text.count("left out a sample") == 2


def test_a_batch_without_any_readable_sample_is_an_error_all_the_same(damaged):
    with pytest.raises(FormatError, match="no sample of a batch of 1 can"):
        list(create_webdataset_dataloader(damaged, 1, 0, verify=True, on_error="skip"))


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("neurofm-shards")]


def test_breaking_off_ends_the_threads(written):
    for _ in create_webdataset_dataloader(written[0], 4, 3):
        assert loader_threads()
        break
    assert not loader_threads()


def test_an_exception_in_the_training_loop_ends_the_threads(written):
    def train():
        for _ in create_webdataset_dataloader(written[0], 4, 3):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert not loader_threads()


def test_an_abandoned_iteration_ends_with_its_garbage_collection(written):
    iterator = iter(create_webdataset_dataloader(written[0], 4, 3))
    next(iterator)
    del iterator
    gc.collect()
    assert not loader_threads()


def test_persistent_workers_serve_all_epochs(written):
    loader = create_webdataset_dataloader(written[0], 10, 2, transform=double, persistent_workers=True)
    pids = []
    for _ in range(3):
        for number, batch in enumerate(loader):
            assert len(batch["x"]) > 0
            if number == 4:
                break
        pids.append([worker.process.pid for worker in loader._kept._workers])
    assert pids[0] == pids[1] == pids[2]
    loader.close()
    assert sorted(row for batch in loader for row in rows_of(batch)) == list(range(103))


def test_two_iterations_at_once_do_not_disturb_each_other(written):
    loader = create_webdataset_dataloader(written[0], 10, 2, transform=double, persistent_workers=True)
    pairs = list(zip(loader, loader, strict=True))
    for side in (0, 1):
        assert sorted(row for pair in pairs for row in rows_of(pair[side])) == list(range(103))
    loader.close()


def test_a_delivered_batch_is_not_kept_alive_by_the_loader(written):
    for num_workers in (0, 2):
        iterator = iter(create_webdataset_dataloader(written[0], 10, num_workers))
        alive = weakref.ref(next(iterator)["x"])
        gc.collect()
        assert alive() is None
        iterator.close()


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_epochs_leave_no_descriptors_threads_or_processes_behind(written, kind):
    from pathlib import Path

    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    loader = create_webdataset_dataloader(written[0], 10, 2, worker_type=kind)
    list(loader)
    before = descriptors(), threading.active_count()
    for number in range(6):
        for at, _ in enumerate(loader):
            if at == number:
                break
        del _  # the last batch keeps its memory
    assert (descriptors(), threading.active_count()) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["thread", "process"])
def test_two_hundred_epochs_leak_nothing(written, kind):
    from pathlib import Path

    def standing():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    options = {"persistent_workers": kind == "process", "worker_type": kind}
    loader = create_webdataset_dataloader(written[0], 10, 2, **options)

    def after_epochs(count):
        for _ in range(count):
            list(loader)
        gc.collect()
        return standing()

    memory, descriptors, threads = after_epochs(20)
    later, descriptors_later, threads_later = after_epochs(200)
    assert threads_later == threads
    # one piece of shared memory more or less, as batches happen to be waiting; one left per epoch would be 200
    assert descriptors_later - descriptors <= 4
    assert later - memory < 4 << 20
    loader.close()


def test_requests_for_what_is_the_same_in_every_epoch_cost_nothing(written):
    requests = iter(())
    assert create_webdataset_dataloader(written[0], 8, 0).setup.fetch.in_epoch(3, requests) is requests
