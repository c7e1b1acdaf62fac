"""Conversions of every recording in ``shared/data`` and ``shared/faults``, and of several recordings at once."""

from __future__ import annotations

from golden_digests import digests_of_folder

from neurofm_shards import convert_inputs
from neurofm_shards.errors import NeurofmShardsError

SPLIT_BY_TIME = {"by": "time", "fractions": {"train": 0.6, "val": 0.2, "test": 0.2}}
FOUR_SESSIONS = [
    f"data/{name}.nwb"
    for name in (
        "A2929_head_direction",
        "A8604_three_units",
        "anm00239123_photostim_trials",
        "anm372793_unsorted_spikes",
    )
]

#: Name of a case: files and settings. Every file is also converted with the defaults.
SETTINGS = {
    "events and behaviour, 20 ms bins": (
        ["data/A2929_head_direction.nwb"],
        {"shard_size": 300, "windows": {"spikes": "both", "bin_size_ms": 20.0, "overlap": 0.0, "split": SPLIT_BY_TIME}},
    ),
    "circular behaviour at bin ends": (
        ["data/A2929_head_direction.nwb"],
        {
            "codec": "npy",
            "windows": {
                "modalities": ["spikes", "behavior"],
                "behavior": [{"path": "ry", "kind": "circular", "at": "bin_end"}, {"path": "x", "at": "bin_mean"}],
                "min_valid_fraction": 0.5,
                "epochs": ["wake"],
            },
        },
    ),
    "padded windows, h5py": (
        ["data/A8604_three_units.nwb"],
        {"source": {"reader": "h5py"}, "windows": {"sequence_length": 333, "on_last_window": "pad", "stride": 100}},
    ),
    "trials": (
        ["data/anm00239123_photostim_trials.nwb"],
        {
            "windows": {
                "sampling": "trial",
                "align_range_ms": [-500.0, 1500.0],
                "label_columns": ["*"],
                "split": {"by": "trial", "fractions": {"train": 0.7, "test": 0.3}, "seed": 3},
            }
        },
    ),
    "trials without stop times": (
        ["data/anm372793_unsorted_spikes.nwb"],
        {
            "windows": {
                "sampling": "trial",
                "sequence_length": 50,
                "label_columns": ["*"],
                "relative_columns": ["cue_start_time", "pole_in_time", "pole_out_time"],
            }
        },
    ),
    "several sessions, masked": (
        FOUR_SESSIONS,
        {
            "shard_size": 700,
            "windows": {
                "modalities": ["spikes", "behavior"],
                "missing": "mask",
                "limit_windows": 400,
                "overlap": 0.0,
                "split": {"by": "session", "fractions": {"train": 0.5, "test": 0.5}},
            },
        },
    ),
    "LFP resampled, in raw units": (
        ["data/neuropixels_lf_int16.nwb"],
        {"windows": {"lfp": {"units": "raw", "rate": 1000.0}, "overlap": 0.0}},
    ),
    "imaging, one series of three": (
        ["data/suite2p_transposed_rois.nwb"],
        {"windows": {"ophys": {"path": "Deconvolved/Deconvolved"}, "bin_size_ms": 100.0, "sequence_length": 40}},
    ),
    "arrays side by side": (["data/suite2p_F.npy", "data/suite2p_iscell.npy"], {"shard_size": 50}),
    "positions over time stamps": (["data/sargolini_positions.npz"], {"source": {"timestamps": "t"}}),
    "channels over a rate": (
        ["data/eog_rem_256hz.npz"],
        {
            "source": {
                "arrays": ["data"],
                "time_axis": 1,
                "rate": "sf",
                "channels": "chan",
                "modality": {"data": "lfp"},
            },
            "windows": {"overlap": 0.0},
        },
    ),
    "pynapple, one channel": (
        ["faults/pynapple_tsd.npz"],
        {"source": {"arrays": ["d"], "timestamps": "t"}, "windows": {"sequence_length": 20}},
    ),
    "pynapple, several channels": (
        ["faults/pynapple_tsdframe.npz"],
        {"source": {"arrays": ["d"], "timestamps": "t", "channels": "columns"}, "windows": {"sequence_length": 20}},
    ),
    "one series by its path": (
        ["faults/linked_series_5_to_6_s.nwb"],
        {"windows": {"behavior": [{"path": "aligned_voltage"}], "sequence_length": 20}},
    ),
    "transformed": (
        ["data/anm00239123_photostim_trials.nwb"],
        {
            "transforms": [
                {"kind": "smooth", "fields": ["spikes"], "sigma_bins": 2.0},
                {"kind": "select", "fields": ["spikes"]},
            ],
            "windows": {"limit_windows": 500},
        },
    ),
    "inputs that fail are left out": (
        ["data/A8604_three_units.nwb", "data/metadata_only.nwb", "data/eog_rem_256hz.npz"],
        {"on_error": "skip", "windows": {"bin_size_ms": 50.0}},
    ),
}


def converted(shared, folder, names, settings, **options):
    """Convert, and return digests, or the type of the error that refuses the inputs."""
    try:
        convert_inputs([shared / name for name in names], folder, settings, **options)
    except NeurofmShardsError as error:
        return {"refused": type(error).__name__}
    return digests_of_folder(folder)


def recordings(shared):
    """Return the names of all files that are to be converted with the defaults."""
    found = [path for part in ("data", "faults") for path in sorted((shared / part).iterdir()) if path.suffix != ".md"]
    return [path.relative_to(shared).as_posix() for path in found]


def conversion_cases(shared):
    """Return the cases by name: a function of a scratch folder that returns digests."""

    def case(names, settings, **options):
        return lambda scratch: converted(shared, scratch / "out", names, settings, **options)

    def appended(scratch):
        windows = {"windows": {"modalities": ["spikes"], "overlap": 0.0}}
        converted(shared, scratch / "out", FOUR_SESSIONS[1:2], windows)
        return converted(shared, scratch / "out", FOUR_SESSIONS[1:3], windows, mode="append")

    cases = {f"default: {name}": case([name], {}) for name in recordings(shared)}
    cases |= {name: case(names, settings) for name, (names, settings) in SETTINGS.items()}
    names, settings = SETTINGS["several sessions, masked"]
    cases["several sessions, masked, two threads"] = case(names, settings, executor="threads", workers=2)
    cases["appended"] = appended
    return cases
