"""Every number on a page is that of the data, which are read here with tarfile, json, pickle and h5py alone."""

from __future__ import annotations

import html
import json
import os
import pickle
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import convert_inputs
from neurofm_shards_report import report
from neurofm_shards_report.numbers import sample_table
from neurofm_shards_report.views import SampleView

DATA = Path(os.environ.get("NEUROFM_SHARDS_DATA") or Path(__file__).parents[4] / "shared" / "data")


def samples_of(folder):
    """Return the samples of a folder of tars, as dicts."""
    samples = {}
    for path in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, field, extension = member.name.split(".")
                data = tar.extractfile(member).read()
                samples.setdefault(key, {})[field] = json.loads(data) if extension == "json" else pickle.loads(data)
    return list(samples.values())


class Page:
    """The facts and the tables of a page."""

    def __init__(self, text):
        self.text = text
        self.facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
        self.tables = [
            [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]
            for rows in (
                re.findall(r"<tr>(.*?)</tr>", found) for found in re.findall(r"<table>.*?</table>", text, re.DOTALL)
            )
        ]

    def table(self, head):
        """Return the rows of the first table whose first column has this head, as dicts."""
        found = next(rows for rows in self.tables if rows[0][0] == head)
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]


def covered(windows):
    """Return the seconds that lie in a window, one millisecond at a time."""
    return len({tick for start, stop in windows for tick in range(round(start * 1000), round(stop * 1000))}) / 1000


def overlapping(one, other):
    return sum(any(a < d - 1e-9 and c < b - 1e-9 for c, d in other) for a, b in one)


def windows_of(metadata, **wanted):
    return [
        (m["window_start_s"], m["window_stop_s"]) for m in metadata if all(m[name] == x for name, x in wanted.items())
    ]


def check(folder, page):
    """Compare a page with the samples of its data set."""
    samples = samples_of(folder)
    metadata = [sample["metadata"] for sample in samples]
    sessions = Counter(m["session_id"] for m in metadata)
    splits = Counter(m.get("split") or "(no split)" for m in metadata)
    assert page.facts["samples"] == f"{len(samples):,}"
    assert page.facts["sessions"] == f"{len(sessions):,}"
    assert page.facts["subjects"] == f"{len({m['subject_id'] for m in metadata}):,}"
    seconds = sum(covered(windows_of(metadata, session_id=name)) for name in sessions)
    assert page.facts["time in windows"] == (f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s")
    assert {row["split"]: row["samples"] for row in page.table("split")} == {k: f"{n:,}" for k, n in splits.items()}
    for row in page.table("session"):
        own = Counter(m.get("split") for m in metadata if m["session_id"] == row["session"])
        assert row["samples"] == f"{sessions[row['session']]:,}"
        assert float(row["in windows (s)"].replace(",", "")) == pytest.approx(
            covered(windows_of(metadata, session_id=row["session"])), rel=1e-3
        )
        if set(splits) != {"(no split)"}:
            assert row["splits"] == ", ".join(f"{name} {count:,}" for name, count in own.items())
    for row in page.table("column"):
        values = samples[0][row["column"]]
        if isinstance(values, (np.ndarray, np.generic)):
            assert row["dtype"] == str(values.dtype)
        mask = row["column"] + "_valid"
        if mask in samples[0]:
            share = float(np.mean([sample[mask].mean() for sample in samples]))
            shown = next(text for name, text in row.items() if name.startswith("valid values"))
            assert float(shown.rstrip("%")) / 100 == pytest.approx(share, abs=0.01)
    return samples, metadata


@pytest.fixture(scope="module")
def made(shards, tmp_path_factory):
    return shards, Page(report(shards, tmp_path_factory.mktemp("numbers") / "r.html").read_text(encoding="utf-8"))


def test_sessions_splits_time_and_validity(made):
    _, metadata = check(*made)
    for row in made[1].table("splits"):
        pair = row["splits"].split(" and ")
        shared = sum(
            overlapping(*(windows_of(metadata, session_id=name, split=split) for split in order))
            for name in ("s0", "s1")
            for order in (pair, pair[::-1])
        )
        assert bool(int(row["windows that overlap in time"])) is bool(shared)
        assert row["sessions in both"] == "2 (s0, s1)"
        assert row["subjects in both"] == "1 (mouse)"


def test_counts_spectra_and_behaviour(made):
    samples, page = samples_of(made[0]), made[1]
    mean = np.mean([sample["spikes"].mean(axis=0) for sample in samples], axis=0)
    assert [float(row["mean count in a bin"]) for row in page.table("unit")] == pytest.approx(mean, rel=1e-3)
    power = np.zeros((126, 3))
    window = np.hanning(250)[:, None]
    for sample in samples:
        centred = sample["lfp"].astype("f8") - sample["lfp"].mean(axis=0, dtype="f8")
        power += 2 * np.abs(np.fft.rfft(centred * window, axis=0)) ** 2 / (250 * (window**2).sum()) / len(samples)
    rows = {float(row["frequency (Hz)"]): row for row in page.table("frequency (Hz)")}
    assert max(rows, key=lambda f: float(rows[f]["median channel (1/Hz)"])) == np.median(power, axis=1).argmax() == 20
    assert float(rows[20.0]["median channel (1/Hz)"]) == pytest.approx(np.median(power[20]), rel=1e-3)
    for i, row in enumerate(page.table("feature")):
        values = np.concatenate([s["behavior"][s["behavior_valid"][:, i], i] for s in samples]).astype("f8")
        low, high = np.quantile(values, (0.001, 0.999))
        assert (int(row["valid values"]), int(row["masked"])) == (len(values), 20 * 50 - len(values))
        assert int(row["beyond"]) == ((values < low) | (values > high)).sum()
        assert [float(row["0.1 %"]), float(row["99.9 %"])] == pytest.approx([low, high], rel=1e-3)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A real recording as windows and stored whole, and the spikes of its units."""
    pytest.importorskip("neurofm_shards_nwb")
    h5py = pytest.importorskip("h5py")
    path = DATA / "A2929_head_direction.nwb"
    if not path.exists():
        pytest.skip(f"the real recordings are not at {DATA}")
    folder = tmp_path_factory.mktemp("real")
    convert_inputs([path], folder / "windows", {"windows": {"split": {"by": "time"}}})
    convert_inputs([path], folder / "stored", {"layout": "recordings"})
    with h5py.File(path) as file:
        units = file["units"]
        ends = units["spike_times_index"][:]
        times = np.split(units["spike_times"][:], ends[:-1])
        stop = float(file["intervals/epochs/stop_time"][-1])
    pages = {name: Page(report(folder / name, folder / f"{name}.html").read_text()) for name in ("windows", "stored")}
    return folder, pages, times, stop


def test_a_real_recording_as_windows(real):
    folder, pages, _, _ = real
    page = pages["windows"]
    samples, _ = check(folder / "windows", page)
    whole = np.mean([sample["behavior_valid"].all() for sample in samples])
    (row,) = [row for row in page.table("column") if row["column"] == "behavior"]
    assert row["valid windows"] == f"{whole:.1%}"
    drops = json.loads((folder / "windows" / "dataset_metadata.json").read_text())["sources"][0]["drops"]
    assert {row["windows left out because"]: row["windows"] for row in page.table("windows left out because")} == {
        reason: f"{count:,}" for reason, count in drops.items()
    }
    seconds = sum(float(row["to (s)"].replace(",", "")) - float(row["from (s)"].replace(",", ""))
                  for row in page.table("left out because"))  # fmt: skip
    covered = sum(float(row["in windows (s)"].replace(",", "")) for row in page.table("session"))
    recorded = sum(float(row["recorded (s)"].replace(",", "")) for row in page.table("session"))
    assert seconds == pytest.approx(recorded - covered, abs=0.01)


@pytest.mark.parametrize("layout", ["windows", "stored"])
def test_firing_rates_of_a_real_recording(layout, real):
    _, pages, times, stop = real
    rows = pages[layout].table("unit")
    assert [int(row["spikes"].replace(",", "")) for row in rows] == [len(own) for own in times]
    assert [float(row["rate (Hz)"]) for row in rows] == pytest.approx([len(own) / stop for own in times], rel=1e-3)


def test_a_modality_without_a_single_channel_has_no_rows():
    values = {"spikes": np.ones((10, 2), "u1"), "lfp": np.zeros((0, 3), "f4"), "behavior": np.zeros((10, 0), "f4")}
    rows = sample_table(SampleView(values)).rows
    assert {row[0] for row in rows} == {"spikes"}
