"""Recipes train on real recordings, beat their baseline on later time, and make the tokens of public code."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import ShardDataset, convert_inputs

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "docs" / "examples" / "recipes"
DATA = Path(os.environ.get("NEUROFM_SHARDS_DATA") or ROOT.parent / "shared" / "data")
HEADING = {"behavior": [{"path": "CompassDirection/ry", "at": "samples"}], "epochs": ["wake"]}
EOG = {
    "source": {
        "kind": "npz",
        "time_axis": 1,
        "rate": "sf",
        "channels": "chan",
        "modality": {"data": "lfp"},
        "units": {"data": "uV"},
    }
}
A2929, A8604, ANM = "A2929_head_direction.nwb", "A8604_three_units.nwb", "anm00239123_photostim_trials.nwb"
RUNS = [
    ("poyo_tokens.py", (), {}, {}, 10),
    ("poyo_tokens.py", (A2929,), HEADING, {}, 3),
    ("ndt3_patches.py", (), {}, {}, 4),
    ("ndt3_patches.py", (A2929, A8604), {"stride": 75}, {}, 3),
    ("labram_batches.py", (), {}, {}, 8),
    ("labram_batches.py", ("eog_rem_256hz.npz",), {"lfp": {"rate": 200}, "stride": 20}, EOG, 4),
    ("masked_counts.py", (), {}, {}, 6),
    ("masked_counts.py", (A2929, A8604, ANM), {"stride": 40}, {}, 3),
]

pytestmark = pytest.mark.plugins


def real(name):
    """Return a real recording, or skip."""
    if not (DATA / name).exists():
        pytest.skip(f"there is no {DATA / name}: NEUROFM_SHARDS_DATA says where real recordings are")
    return str(DATA / name)


@pytest.fixture
def recipe(monkeypatch):
    """Import a recipe by its name."""
    monkeypatch.syspath_prepend(RECIPES)
    return importlib.import_module


@pytest.mark.parametrize(("script", "files", "windows", "convert", "epochs"), RUNS)
def test_a_recipe_learns_and_beats_its_baseline_on_later_time(script, files, windows, convert, epochs, tmp_path):
    options = ["--windows", json.dumps(windows), "--convert", json.dumps(convert), "--epochs", str(epochs)]
    command = [sys.executable, str(RECIPES / script), *map(real, files), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(loss) for loss in re.findall(r"^epoch \d+: loss (\S+)$", done.stdout, re.MULTILINE)]
    assert len(losses) == epochs
    assert losses[-1] < losses[0]
    found, baseline = re.search(r"^held-out time: loss (\S+), of [a-z ]+ (\S+)$", done.stdout, re.MULTILINE).groups()
    assert float(found) < float(baseline)


def test_every_recipe_is_run():
    scripts = {path.name for path in RECIPES.glob("*.py")} - {"training.py"}
    assert (
        scripts
        == {script for script, files, *_ in RUNS if not files}
        == {script for script, files, *_ in RUNS if files}
    )


def stored(tmp_path, name, windows, **options):
    """Store a real recording, and open windows of it."""
    convert_inputs(real(name), tmp_path / "recorded", {"layout": "recordings", **options})
    return ShardDataset(tmp_path / "recorded", windows=windows)


def spike_trains(name):
    """Return the ids of units and the times of their spikes, as h5py reads them."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(real(name)) as file:
        units = file["units"]
        stops = units["spike_times_index"][:].tolist()
        times = units["spike_times"][:]
        return units["id"][:], [times[start:stop] for start, stop in itertools.pairwise([0, *stops])]


def series(name, path):
    """Return the time stamps and the values of a series, as h5py reads them."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(real(name)) as file:
        return file[path]["timestamps"][:], file[path]["data"][:]


def test_tokens_of_poyo_are_those_of_torch_brain(recipe, tmp_path):
    models = pytest.importorskip("torch_brain.models", reason="torch_brain is not installed: pip install torch_brain")
    from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries

    poyo = recipe("poyo_tokens")
    windows = stored(tmp_path, A2929, {**poyo.WINDOWS, **HEADING})
    ids, trains = spike_trains(A2929)
    names, order = ids.astype(str), np.argsort(np.concatenate(trains), kind="stable")
    owner = np.repeat(np.arange(len(ids)), [len(train) for train in trains])
    whole = Interval(0.0, 1200.0)
    spikes = IrregularTimeSeries(np.concatenate(trains)[order], unit_index=owner[order], domain=whole)
    moments, angles = series(A2929, "acquisition/CompassDirection/ry")
    heading = IrregularTimeSeries(moments, values=angles, domain=whole)
    data = Data(spikes=spikes, heading=heading, units=ArrayDict(id=names), session=Data(id="A2929"), domain=whole)
    model = models.POYO(
        sequence_length=poyo.SECONDS,
        latent_step=poyo.STEP,
        num_latents_per_step=poyo.LATENTS,
        dim_out=1,
        dim=8,
        dim_head=8,
    )
    model.unit_emb.initialize_vocab(names)
    model.session_emb.initialize_vocab(["A2929"])
    assert model.unit_emb.tokenizer(names) == list(range(1, len(ids) + 1)), "its numbers begin at 1, and ours at 0"
    make, compared = poyo.Tokens(frozenset()), 0
    for row in range(0, len(windows), len(windows) // 25):
        start = windows[row]["metadata"]["window_start_s"]
        cut = data.slice(start, start + poyo.SECONDS)
        ours, theirs = make(windows[row]), model.tokenize(cut)
        count = len(ours["input_unit"])
        assert count > 2 * len(ids) + 10
        assert theirs["input_mask"].obj.sum() == count
        np.testing.assert_array_equal(ours["input_unit"] + 1, theirs["input_unit_index"].obj)
        np.testing.assert_array_equal(ours["input_kind"], theirs["input_token_type"].obj)
        np.testing.assert_allclose(ours["input_time"], theirs["input_timestamps"].obj, rtol=0, atol=1.2e-7)
        np.testing.assert_array_equal(ours["latent_index"], theirs["latent_index"])
        np.testing.assert_array_equal(ours["latent_time"], theirs["latent_timestamps"])
        np.testing.assert_allclose(ours["target_time"], cut.heading.timestamps, rtol=0, atol=1.2e-7)
        np.testing.assert_array_equal(ours["target"][:, 0], cut.heading.values.astype(np.float32))
        assert ours["target_weight"].all()
        compared += len(cut.heading)
    assert compared > 20 * 100, "the camera ran from 670 s on"


def test_patches_of_ndt3_hold_32_units_of_one_bin_time_by_time(recipe, tmp_path):
    ndt3 = recipe("ndt3_patches")
    windows = stored(tmp_path, A2929, ndt3.WINDOWS)
    _, trains = spike_trains(A2929)
    sample = windows[100]
    start, width = sample["metadata"]["window_start_s"], 0.02
    edges = start + width * np.arange(ndt3.BINS + 1)
    counts = np.stack([np.histogram(train[train < edges[-1]], edges)[0] for train in trains], axis=1)
    made = ndt3.tokens(sample)
    assert made["patch"].shape == (ndt3.BINS, 32)
    np.testing.assert_array_equal(made["patch"][:, : len(trains)], counts)
    assert not made["patch"][:, len(trains) :].any()
    assert set(made["patch_channels"].tolist()) == {len(trains)}


@pytest.mark.parametrize("units", [1, 31, 32, 33, 64, 70])
def test_patches_of_ndt3_are_laid_out_as_its_own(recipe, units):
    torch = pytest.importorskip("torch")
    ndt3 = recipe("ndt3_patches")
    counts = torch.arange(1.0, 4 * units + 1).reshape(4, units)
    made = ndt3.tokens({"spikes": counts, "unit_ids": torch.arange(units)})
    expected = [
        (bin_, space, counts[bin_, space * 32 : space * 32 + 32].tolist())
        for bin_ in range(4)
        for space in range(-(-units // 32))
    ]
    found = [
        (time, space, patch[:channels])
        for time, space, channels, patch in zip(
            made["patch_time"].tolist(),
            made["patch_space"].tolist(),
            made["patch_channels"].tolist(),
            made["patch"].tolist(),
            strict=True,
        )
    ]
    assert found == expected
    assert made["patch"].sum() == counts.sum()
    assert made["patch_units"][0].tolist() == [*range(1, min(units, 32) + 1), *([0] * (32 - units))]


def test_patches_of_labram_are_seconds_of_one_channel(recipe, tmp_path):
    signal = pytest.importorskip("scipy.signal")
    labram = recipe("labram_batches")
    windows = stored(tmp_path, "eog_rem_256hz.npz", {**labram.WINDOWS, "lfp": {"rate": labram.RATE}}, **EOG)
    with np.load(real("eog_rem_256hz.npz")) as archive:
        microvolts = signal.resample_poly(archive["data"].astype(float), 25, 32, axis=1)
    sample = windows[50]
    first = round(sample["metadata"]["window_start_s"] * labram.RATE)
    expected = microvolts[:, first : first + labram.SECONDS * labram.RATE].reshape(2, labram.SECONDS, labram.RATE) / 100
    made = labram.patches(sample)
    np.testing.assert_allclose(made["patches"], expected, atol=2e-5)
    assert [windows.table("channels")[row]["channel"] for row in made["channels"].tolist()] == ["LOC", "ROC"]
    hidden = labram.hide({"patches": made["patches"][None].repeat(9, 1, 1, 1)})
    assert hidden.sum(dim=(1, 2)).tolist() == [labram.SECONDS] * 9, "half of the patches of each window"


def test_masked_counts_hide_whole_bins(recipe):
    torch = pytest.importorskip("torch")
    masked = recipe("masked_counts")
    hidden = masked.hide({"spikes": torch.zeros(400, 20, 7)})
    assert hidden.shape == (400, 20)
    assert abs(hidden.float().mean() - 0.2) < 0.02
