"""Splits, orders, batches and states of small data sets made by arithmetic."""

from __future__ import annotations

from functools import partial
from itertools import islice

import numpy as np
from golden_digests import digest, digest_of_json
from torch.utils.data import DataLoader

from neurofm_shards import (
    ResumableWebDatasetLoader,
    WebDatasetLoader,
    convert_inputs,
    create_shards_from_arrays,
    create_webdataset_dataloader,
    mix,
    save_splits,
    split,
)
from neurofm_shards.loading.batching import Balanced, OneSession, TokenBudget

THREE = {"train": 0.6, "val": 0.2, "test": 0.2}
EPOCHS = (0, 1, 5)


def write_small(folder, count=500, shard_size=37):
    """Write samples of 10 sessions with windows that overlap by half, trials, and a ragged column."""
    rows = np.arange(count)
    columns = {
        "row": rows,
        "x": (rows[:, None] + np.arange(3)).astype("f4"),
        "times": [np.full(row * 7 % 13 + 1, row, "f4") for row in rows],
    }
    sessions = np.minimum(rows * rows // 2500, 9)  # sessions of many sizes
    metadata = [
        {
            "session_id": f"day{session}",
            "subject_id": f"M{session % 6}",
            "trial": int(row) // 5 if row % 11 else -1,
            "window_start_s": row / 2,
            "window_stop_s": row / 2 + 1,
            "side": "left" if row % 3 else "right",
        }
        for row, session in zip(rows.tolist(), sessions.tolist(), strict=True)
    ]
    create_shards_from_arrays(folder, columns, shard_size, metadata)
    return folder


def write_large(folder):
    """Write more samples than are permuted by sorting, in shards that windows do not fill."""
    rows = np.arange(20_000)
    create_shards_from_arrays(folder, {"row": rows}, 170)
    return folder


def splits_of(folder, **options):
    found = split(folder, **{"balanced": False, **options})  # by hash, as it always was
    return {
        "rows": digest_of_json({name: rows.tolist() for name, rows in found.rows.items()}),
        **{f"number of {name}": count for name, count in found.counts().items()},
        "dropped": dict(found.dropped),
    }


def saved(folder):
    save_splits(folder, split(folder, by="session", fractions=THREE, balanced=False))
    path = folder / ".neurofm" / "splits"
    try:
        loader = create_webdataset_dataloader(folder, 16, 0, split="train", columns=["row"])
        return {"file": digest(path.read_bytes()), "order of train": rows_of_epoch(loader, 0)}
    finally:
        path.unlink()


def rows_of_epoch(loader, epoch):
    """Return the digest of an epoch's batches of row numbers."""
    loader.set_epoch(epoch)
    return digest_of_json([batch["row"].tolist() for batch in loader])


def order(folder, **options):
    """Return digests of some epochs of every rank."""
    options = {"batch_size": 16, "num_workers": 0, "columns": ["row"], "metadata": False, **options}
    size = options.pop("world_size", 1)
    loaders = [create_webdataset_dataloader(folder, rank=rank, world_size=size, **options) for rank in range(size)]
    return {
        f"epoch {epoch}, rank {rank} of {size}": rows_of_epoch(loader, epoch)
        for epoch in EPOCHS
        for rank, loader in enumerate(loaders)
    }


def mixed(folders, **options):
    return order(mix(folders, **options))


def single(folder, kind=WebDatasetLoader, **options):
    """Return digests of epochs of single samples, alone and shared by two workers."""
    found = {}
    for epoch in EPOCHS:
        loader = kind(folder, columns=["row"], **options)
        loader.set_epoch(epoch)
        found[f"epoch {epoch}"] = digest_of_json([int(sample["row"]) for sample in loader])
    if kind is WebDatasetLoader:
        shared = DataLoader(kind(folder, columns=["row"], **options), batch_size=None, num_workers=2)
        found["two workers"] = digest_of_json([int(sample["row"]) for sample in shared])
    return found


def _bytes(value):
    if isinstance(value, list):
        return b"".join(map(_bytes, value))
    if isinstance(value, dict):
        return repr(value).encode()
    values = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
    return f"{values.dtype} {values.shape}".encode() + values.tobytes()


def contents(folder, **options):
    """Return digests of the bytes of each field of the first batches."""
    loader = create_webdataset_dataloader(folder, 16, 0, **options)
    found = {}
    for batch in islice(loader, 3):
        for name, value in batch.items():
            found[name] = found.get(name, b"") + name.encode() + _bytes(value)
    return {name: digest(data) for name, data in found.items()}


def _state(loader, deliver):
    iterator = iter(loader)
    for _ in range(deliver):
        next(iterator)
    return loader.state_dict()


def states(small, other, scratch):
    """Return the whole states of loaders in the middle of their second epoch, and at an epoch's end."""
    options = {"batch_size": 16, "num_workers": 0, "buffer_size": 60}
    of_batches = partial(create_webdataset_dataloader, **options)
    loaders = {
        "storage order": of_batches(small, shuffle=False),
        "windows": of_batches(small),
        "permutation": of_batches(small, shuffle="global"),
        "selected": of_batches(small, where='side == "left"'),
        "rank 1 of 2": of_batches(small, rank=1, world_size=2),
        "mixture": of_batches(mix([small, other], weights=[3, 1])),
        "one session": of_batches(small, batching=OneSession()),
        "balanced": of_batches(small, batching=Balanced("side")),
        "budget": of_batches(small, batching=TokenBudget(100, column="times"), ragged="pad"),
        "single samples": WebDatasetLoader(small, buffer_size=60),
        "checkpoints": ResumableWebDatasetLoader(small, scratch / "checkpoint.json", buffer_size=60),
    }
    found = {}
    for name, loader in loaders.items():
        loader.set_epoch(1)
        found[name] = _state(loader, 5)
    whole = of_batches(small)
    for _ in whole:
        pass
    found["end of an epoch"] = whole.state_dict()
    loaders["checkpoints"].save_checkpoint()
    found["checkpoint file"] = {"bytes": digest((scratch / "checkpoint.json").read_bytes())}
    return found


def recorded_splits(shared, scratch, **options):
    """Return what split makes of windows of a real recording."""
    settings = {"windows": {"label_columns": ["*"], "modalities": ["spikes"]}}
    convert_inputs([shared / "data" / "anm00239123_photostim_trials.nwb"], scratch / "out", settings)
    return splits_of(scratch / "out", column=None, **options)


def loading_cases(shared, folders):
    """Return the cases by name: a function of a scratch folder that returns digests.

    ``folders`` gives the data sets ``small``, ``other`` and ``large``.
    """
    small, other, large = (folders[name] for name in ("small", "other", "large"))
    windows = {"window of 60": {"buffer_size": 60}, "window of 1": {"buffer_size": 1}, "one window": {}}
    modes = {
        "storage order": {"shuffle": False},
        "shards alone": {"shuffle": False, "shuffle_shards": True},
        "windows in storage order": {"shuffle_shards": False, "buffer_size": 60},
        "permutation": {"shuffle": "global"},
        "other seed": {"shuffle": "global", "seed": 7},
        "whole batches": {"drop_last": True, "buffer_size": 60},
        **windows,
    }
    found = {
        f"split by {by}": partial(splits_of, small, by=by, fractions=THREE, seed=seed)
        for by, seed in (("session", 0), ("subject", 3), ("trial", 0), ("time", 0))
    }
    found["split by session, balanced"] = partial(splits_of, small, by="session", fractions=THREE, balanced=True)
    found["split by time, without gap"] = partial(splits_of, small, by="time", fractions=THREE, purge=0.0)
    found["splits saved"] = partial(saved, small)
    found |= {f"order: {name}": partial(order, small, **options) for name, options in modes.items()}
    for even in ("pad", "drop"):
        found[f"order: two ranks, {even}"] = partial(order, small, world_size=2, even=even, buffer_size=60)
    found["order: three ranks, permutation"] = partial(order, small, world_size=3, shuffle="global")
    found["order: where"] = partial(order, small, where='side == "left" and trial != 3', buffer_size=60)
    found["order: rows"] = partial(order, small, rows=np.arange(400, 20, -3), shuffle="global")
    large_options = {"batch_size": 400}
    found["order: large, windows"] = partial(order, large, **large_options)
    found["order: large, permutation"] = partial(order, large, shuffle="global", **large_options)
    found["order: large, one window"] = partial(order, large, buffer_size=30_000, **large_options)
    found["mix: weights"] = partial(mixed, [small, other], weights=[3, 1])
    found["mix: whole"] = partial(mixed, [small, other])
    found["mix: temperature, all exhausted"] = partial(mixed, [small, other], temperature=2.0, stop="all_exhausted")
    rules = {
        "one session": OneSession(),
        "one session, blocks": OneSession(by=("subject_id", "side"), block=4),
        "balanced": Balanced("side"),
        "balanced, weights": Balanced("session_id", weights=(5, 1, 1, 1, 1, 1, 1, 1, 1, 1), stop="all_exhausted"),
        "budget": TokenBudget(100, column="times"),
        "budget, sums": TokenBudget(100, column="times", padded=False, bucket=64),
    }
    for name, rule in rules.items():
        found[f"batching: {name}"] = partial(order, small, batching=rule, buffer_size=60)
        found[f"batching: {name}, two ranks"] = partial(order, small, batching=rule, world_size=2, buffer_size=60)
    found["order: single samples"] = partial(single, small, buffer_size=60)
    found["order: single samples, permutation"] = partial(single, small, shuffle="global")
    found["order: single samples, rank 1 of 2"] = partial(single, small, rank=1, world_size=2, buffer_size=60)
    found |= {f"batches: {name}": partial(contents, small, ragged=name) for name in ("list", "pad", "packed")}
    cases = {name: (lambda _, make=make: make()) for name, make in found.items()}
    cases["states"] = lambda scratch: states(small, other, scratch)
    for by in ("trial", "time"):
        cases[f"real split by {by}"] = lambda scratch, by=by: recorded_splits(shared, scratch, by=by, fractions=THREE)
    return cases
