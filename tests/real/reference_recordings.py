"""Where the windows of whole real recordings begin, and what spikes they hold: h5py and numpy alone."""

from __future__ import annotations

from reference_files import epochs, event_times, spike_trains, trial_table
from reference_windows import counts, extent, fixed_starts, starts_in_epochs

LICKS = [f"acquisition/lick_times/lick_{side}_times" for side in ("left", "right")]


def recorded_extent(path, trains):
    table = trial_table(path) if path.name.startswith("anm") else None
    licks = event_times(path, LICKS) if path.name.startswith("anm372793") else []
    return extent(epochs(path), [*trains, *licks], table)


def expected(path, width_ms=10.0, bins=100, stride=50):
    ids, trains = spike_trains(path)
    width = round(width_ms * 1e6)
    start, stop = recorded_extent(path, trains)
    if path.name.startswith("retina"):
        starts, left = starts_in_epochs(epochs(path), width, bins, stride)
    else:
        starts, left = fixed_starts(start, stop, width, bins, stride)
    return ids, starts, left, counts(trains, starts, width, bins), start
