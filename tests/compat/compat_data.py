"""What the fixtures hold, by arithmetic, and the loaders whose states they keep."""

from __future__ import annotations

import os
from functools import partial

import numpy as np

from neurofm_shards import (
    ResumableWebDatasetLoader,
    WebDatasetLoader,
    create_webdataset_dataloader,
    mix,
)
from neurofm_shards.loading.batching import Balanced, OneSession, TokenBudget

#: Samples of a data set of one codec or compression.
SAMPLES = 8
#: Data sets written from arrays, and how.
WRITTEN = {
    "pyd": {},
    "npy": {"codec": "npy"},
    "mixed codecs": {"codecs": {"behavior": "npy", "note": "json"}},
    "gz": {"compression": "gz"},
    "bz2": {"compression": "bz2"},
    "xz": {"compression": "xz"},
    "zstd": {"compression": "zstd"},
    "lz4": {"compression": "lz4", "codec": "npy"},
}


def arrays(start, stop):
    """Return columns and metadata of samples."""
    rows = np.arange(start, stop)
    columns = {
        "spikes": (rows[:, None, None] * 7 + np.arange(10)[:, None] * 3 + np.arange(4)).astype("u1") % 11,
        "behavior": (rows[:, None, None] / 4 - np.arange(10)[:, None] + np.arange(2) / 8).astype("f4"),
        "reward": rows % 3,
        "note": [{"row": row, "side": ("left", "right")[row % 2], "half": row / 2} for row in rows.tolist()],
    }
    return columns, [{"session_id": f"day{row // 5}", "trial": row % 5} for row in rows.tolist()]


def ragged(start, stop):
    """Return columns whose lengths differ."""
    rows = range(start, stop)
    return {
        "times": [np.arange(row * 5 % 7, dtype="f4") / 8 + row for row in rows],
        "some": [np.full((row % 3, 2), row, "i2") for row in rows],
    }


def single_sample(row):
    """Return one sample: the columns of :func:`arrays`, and in every third sample one more."""
    columns, metadata = arrays(row, row + 1)
    more = {"extra": np.arange(row, dtype="i4")} if row % 3 == 0 else {}
    return {name: values[0] for name, values in columns.items()} | more, metadata[0]


def loading_columns(start, stop):
    """Return columns and metadata of the data sets that states belong to."""
    rows = list(range(start, stop))
    columns = {"row": np.array(rows), "times": [np.full(row * 7 % 13 + 1, row, "f4") for row in rows]}
    metadata = [{"session_id": f"day{row * row // 200}", "side": "left" if row % 3 else "right"} for row in rows]
    return columns, metadata


def lines(start, stop):
    """Return rows of a file of JSON lines."""
    return [{"x": [row, row + 1, row * 2], "label": f"row {row}"} for row in range(start, stop)]


#: Inputs of unfinished conversions: trials in ``.npz`` archives.
TRIALS = {"trials_a": range(4), "trials_b": range(4, 7), "trials_c": range(7, 12), "trials_d": range(12, 14)}


#: Modification time of all inputs: an unfinished conversion refuses inputs that were written since.
INPUT_TIME = 1_767_225_600


def set_times(folder):
    """Give all inputs of a folder their modification time."""
    for path in folder.iterdir():
        os.utime(path, (INPUT_TIME, INPUT_TIME))


def trials(rows):
    """Return the arrays of one archive."""
    columns, _ = arrays(rows.start, rows.stop)
    return {name: columns[name] for name in ("spikes", "behavior")}


#: Recordings with side tables: bins of 100 ms, in each of which unit ``u`` fires where ``bin % (u + 1)`` is 0.
UNITS = {"session_a": 3, "session_b": 2}
BINS = 40


def spike_times(unit):
    """Return spike times of one unit in seconds, each in the middle of a bin of 100 ms."""
    return np.arange(0, BINS, unit + 1) / 10 + 0.05


def loaders(folder, other, checkpoint):
    """Return the loaders whose states are kept: name to a function that makes one."""
    of_batches = partial(create_webdataset_dataloader, batch_size=4, num_workers=0, buffer_size=10, seed=5)
    both = partial(mix, [folder, other])
    of_samples = partial(WebDatasetLoader, folder, buffer_size=10, seed=5)
    return {
        "storage order": partial(of_batches, folder, shuffle=False),
        "windows": partial(of_batches, folder),
        "permutation": partial(of_batches, folder, shuffle="global"),
        "selected": partial(of_batches, folder, where='side == "left"'),
        "rank 1 of 2": partial(of_batches, folder, rank=1, world_size=2),
        "mixture, whole": lambda: of_batches(both(), columns=["row"]),
        "mixture, weights": lambda: of_batches(both(weights=[3, 1]), columns=["row"]),
        "one session": partial(of_batches, folder, batching=OneSession()),
        "balanced": partial(of_batches, folder, batching=Balanced("side")),
        "budget": partial(of_batches, folder, batching=TokenBudget(30, column="times"), ragged="pad"),
        "single samples": of_samples,
        "single samples, permutation": partial(of_samples, shuffle="global"),
        "checkpoints": partial(ResumableWebDatasetLoader, folder, checkpoint, buffer_size=10, seed=5),
    }


def rows_of(item):
    """Return the row numbers of a batch, or of a sample."""
    return np.atleast_1d(np.asarray(item["row"])).tolist()
