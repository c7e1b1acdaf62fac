"""Reads units, series and tables of the real recordings: h5py and numpy, nothing of the program.

Written from the NWB schema and from the files themselves; every function opens the file anew.
"""

from __future__ import annotations

import h5py
import numpy as np

BILLION = 1_000_000_000


def to_ns(seconds):
    """Nearest nanosecond, as int64."""
    return np.rint(np.asarray(seconds, dtype=np.float64) * 1e9).astype(np.int64)


def spike_trains(path):
    """Return ids and, for each unit, its finite spike times in ascending nanoseconds."""
    ids, trains = [], []
    with h5py.File(path, "r") as file:
        if "units" in file:
            ends = [int(end) for end in file["units/spike_times_index"][()]]
            first = 0
            for unit, last in zip(file["units/id"][()], ends, strict=True):
                ids.append(str(int(unit)))
                trains.append(file["units/spike_times"][first:last])
                first = last
        else:
            cells = file["processing/Cells/UnitTimes"]
            for name in sorted(cells):
                ids.append(name)
                trains.append(cells[name]["times"][()])
    return ids, [np.sort(to_ns(train[~np.isnan(train)])) for train in trains]


def epochs(path):
    """Return starts and stops of the epochs in nanoseconds, and the tags of each; None when there are none."""
    with h5py.File(path, "r") as file:
        if "intervals/epochs" in file:
            table = file["intervals/epochs"]
            ends = [int(end) for end in table["tags_index"][()]]
            words = [word.decode() for word in table["tags"][()]]
            tags = [words[first:last] for first, last in zip([0, *ends[:-1]], ends, strict=True)]
            return to_ns(table["start_time"][()]), to_ns(table["stop_time"][()]), tags
        if "epochs" in file:
            rows = [file["epochs"][name] for name in sorted(file["epochs"])]
            starts = to_ns([row["start_time"][()] for row in rows])
            return starts, to_ns([row["stop_time"][()] for row in rows]), [[] for _ in rows]
    return None


def series(path, where):
    """Return time stamps in seconds and the stored values of a series that has time stamps."""
    with h5py.File(path, "r") as file:
        return file[where]["timestamps"][()], file[where]["data"][()]


def regular_series(path, where):
    """Return stored values, first time, rate, and the factor to physical units of a series with a rate."""
    with h5py.File(path, "r") as file:
        data, start = file[where]["data"], file[where]["starting_time"]
        return data[()], float(start[()]), float(start.attrs["rate"]), float(data.attrs["conversion"])


def trial_table(path):
    """Return the trial table's columns, as stored; text decoded."""
    with h5py.File(path, "r") as file:
        columns = {name: file["intervals/trials"][name][()] for name in file["intervals/trials"]}
    return {
        name: [value.decode() for value in values] if values.dtype == object else values.tolist()
        for name, values in columns.items()
    }


def event_times(path, names):
    """Return the finite time stamps of event series in ascending nanoseconds, one array each."""
    trains = []
    with h5py.File(path, "r") as file:
        for name in names:
            times = file[name]["timestamps"][()]
            trains.append(np.sort(to_ns(times[~np.isnan(times)])))
    return trains
