"""Recordings made for tests, odd ones included, and a source that opens them by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Source
from neurofm_shards.recordings import InMemoryRecording, WindowOptions
from neurofm_shards.recordings.memory import events, intervals, irregular, regular

#: What a ``.made`` file of this name opens; forked workers have it too.
RECORDINGS: dict[str, list] = {}


class MadeSource(Source):
    def open(self, paths):
        name = Path(paths[0]).stem
        return InMemoryRecording(
            RECORDINGS[name],
            session_id=name,
            subject_id=f"mouse-{name}",
            source_file=f"{name}.made",
            fingerprint=f"made-{name}",
            facts={"species": "mouse"},
        )


ENTRY = SourceEntry(name="made", summary="recordings of tests", factory=MadeSource, suffixes=(".made",))


def file_of(folder, name, streams):
    """Make a file that opens these streams."""
    RECORDINGS[name] = streams
    path = Path(folder) / f"{name}.made"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    return str(path)


def session(seed, seconds=20.0, *, units=4, odd=True, lfp=True, behavior=True):
    """A session with spikes, LFP with a gap, two behaviour series, trials, epochs and invalid times."""
    rng = np.random.default_rng(seed)
    start = float(rng.choice([0.0, 3.25, 1234.5678901]))
    times = {f"u{i}": start + np.sort(rng.uniform(0, seconds, rng.integers(0, 60))) for i in range(units)}
    if odd and units:
        flat = times["u0"]
        times["u0"] = np.concatenate([flat[::-1], [np.nan, start - 50.0]])  # unsorted, no number, outside
    observed = None
    if units > 1 and seed % 2:
        spans = [np.array([[start, start + seconds * 0.6]]), None, *([None] * (units - 2))]
        observed = lambda: spans  # noqa: E731
    table = [{"quality": "good" if i % 3 else "noise", "depth": float(i) if i else float("nan")} for i in range(units)]
    streams = [events("units", times, table=table, observed=observed)]
    if seed % 3 == 0:
        streams.append(events("other/units", {"9": start + np.arange(5) + 0.1}))
    if lfp:
        values = rng.integers(-500, 500, (int(seconds * 50), 3)).astype(np.int16)
        stamps = start + 0.5 + np.arange(len(values)) / 50
        stamps[len(stamps) // 2 :] += 0.7 if odd else 0.0
        streams.append(irregular("acquisition/lfp", values, stamps, modality="lfp", unit="V", scale=1e-4))
        streams.append(regular("acquisition/raw", values[: len(values) // 2], 25.0, start + 1.0, modality="raw"))
    if behavior:
        n = int(seconds * 6)
        stamps = start + seconds * 0.25 + np.cumsum(rng.uniform(0.05, 0.2, n))
        walk = np.cumsum(rng.normal(size=(n, 2)), axis=0)
        walk[rng.integers(0, n, 4)] = np.nan
        if odd:
            stamps[3], stamps[7:9] = np.nan, stamps[8:6:-1].copy()
        streams.append(irregular("processing/position", walk, stamps, unit="cm"))
        streams.append(irregular("processing/speed", np.abs(walk[:, :1]), stamps, unit="cm/s"))
        angle = rng.uniform(0, 2 * np.pi, (int(seconds * 10),))
        streams.append(regular("processing/angle", angle, 10.0, start, modality="behavior", circular=(0.0, 2 * np.pi)))
    begin = start + np.sort(rng.uniform(0, seconds - 2, 6))
    stop = begin + rng.uniform(0.5, 2.0, 6)
    stop[1] = np.nan
    columns = {"outcome": ["hit", "miss", None, "hit", "hit", "miss"], "cue_time": begin + 0.2, "good": [True] * 6}
    streams.append(intervals("intervals/trials", begin, stop, columns))
    epochs = {"tags": [["sleep"], ["wake", "run"]]}
    middle = start + seconds / 2
    streams.append(intervals("epochs", [start, middle], [middle, start + seconds], epochs, modality="epochs"))
    streams.append(intervals("invalid", [start + seconds * 0.7], [start + seconds * 0.75], modality="invalid"))
    return streams


def imaged(seed, seconds=8.0):
    """A session of two imaged planes, a pose that is not always sure, and units with electrodes, on odd clocks."""
    rng = np.random.default_rng(seed)
    electrodes = {"electrodes": [{"id": str(i), "x": float(i)} for i in range(3)]}
    times = {f"u{i}": np.sort(rng.uniform(0, seconds, 40)) for i in range(2)}
    streams = [events("units", times, table=[{"electrode_x": 0.0}, {"electrode_x": 1.0}], tables=electrodes)]
    for plane in ("upper", "lower"):
        rows = [{"iscell": [float(i % 2), 0.5], "plane_name": plane} for i in range(4)]
        tables = {"planes": [{"id": plane, "location": "V1"}]}
        values = rng.normal(size=(int(seconds * 10), 4))
        streams.append(regular(f"ophys/{plane}", values, 10.0, modality="ophys", table=rows, tables=tables))
    sure = np.column_stack([rng.normal(size=(160, 2)), rng.uniform(0, 1, 160)])
    stamps = np.arange(160) / 20
    names = {"channels": ("x", "y", "confidence"), "confidence": "confidence"}
    streams.append(irregular("pose/paw", sure, stamps, **names))
    streams.append(irregular("wheel", np.cumsum(rng.normal(size=160)), np.arange(160) * 50, unit="cm"))
    return streams


@st.composite
def window_options(draw):
    """Options of all kinds, as a dict."""
    sampling = draw(st.sampled_from(["fixed", "fixed", "trial"]))
    said = {
        "bin_size_ms": draw(st.sampled_from([5.0, 10.0, 33.3, 100.0])),
        "sequence_length": draw(st.integers(1, 30)),
        "sampling": sampling,
        "on_last_window": draw(st.sampled_from(["drop", "overlap", "pad"])),
        "unit_table_path": draw(st.sampled_from(["units", "other/units"])) if draw(st.booleans()) else "units",
        "modalities": draw(
            st.sampled_from([("spikes",), ("behavior",), ("spikes", "behavior"), ("lfp", "spikes"), ("lfp",)])
        ),
        "spikes": draw(st.sampled_from(["counts", "events", "both"])),
        "missing": "mask",
        "extent": draw(st.sampled_from(["auto", "auto", "units", "all", (2.0, 7.5)])),
        "masks": draw(st.sampled_from(["auto", "always"])),
        "invalid": draw(st.sampled_from(["drop", "mask", "ignore"])),
        "gaps": draw(st.sampled_from(["drop", "mask"])),
        "min_valid_fraction": draw(st.sampled_from([0.0, 0.0, 0.5])),
        "unit_filter": draw(st.sampled_from([None, None, "quality == 'good'", "depth > 1"])),
        "min_firing_rate_hz": draw(st.sampled_from([0.0, 0.0, 1.0])),
        "label_columns": draw(st.sampled_from([(), ("outcome",), ("*",), ({"column": "outcome", "as": "code"},)])),
        "epochs": draw(st.sampled_from([(), (), ("wake",)])),
        "split": draw(
            st.sampled_from([None, None, {"by": "time"}, {"by": "trial"}, {"by": "session"}, {"by": "subject"}])
        ),
        "behavior": draw(
            st.sampled_from(
                [
                    None,
                    None,
                    [{"path": "processing/position", "at": "samples"}, {"path": "angle", "at": "bin_end"}],
                    [{"path": "angle", "at": "samples"}, {"path": "position", "at": "samples", "columns": ["1"]}],
                    [{"path": "speed", "at": "bin_mean"}],
                ]
            )
        ),
        "lfp": {
            "units": draw(st.sampled_from(["volts", "uV", "raw"])),
            "path": "acquisition/lfp",
            "channels": draw(st.sampled_from([None, ("2", "0")])),
        },
    }
    if sampling == "fixed":
        said["stride"] = draw(st.integers(1, said["sequence_length"] + 3))
    elif draw(st.booleans()):
        said["align_field"] = "cue_time"
    return said


def options_of(said):
    """Validate a dict of options."""
    return WindowOptions.model_validate(said)


WINDOWS = {
    "modalities": ["spikes", "lfp", "behavior"],
    "missing": "mask",
    "spikes": "both",
    "sequence_length": 20,
    "unit_table_path": "units",
    "label_columns": ["outcome"],
    "split": {"by": "time"},
    "lfp": {"path": "acquisition/lfp"},
}
NUMBERING = ("sample_id", "shard_idx", "sample_idx_in_shard")


def same(a, b):
    """Say whether two columns hold the same bits, sample by sample: shards know a length that all happen to share."""
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(map(np.asarray, a), map(np.asarray, b), strict=True)
    )


def said(metadata):
    return [{name: value for name, value in one.items() if name not in NUMBERING} for one in metadata]


def plain(value):
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), value.numpy().tobytes(), tuple(value.shape)]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def drained(loader):
    return [{name: said(v) if name == "metadata" else plain(v) for name, v in batch.items()} for batch in loader]
