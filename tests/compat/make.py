"""Make fixtures with the installed version: ``python tests/compat/make.py``, once per release; see README.md.

All five plugins must be installed, and hatchling and pynwb. Fixtures of earlier versions are never made anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent))
from compat_data import (
    SAMPLES,
    TRIALS,
    UNITS,
    WRITTEN,
    arrays,
    lines,
    loaders,
    loading_columns,
    ragged,
    rows_of,
    set_times,
    single_sample,
    spike_times,
    trials,
)

from neurofm_shards import WebDatasetWriter, __version__, create_shards_from_arrays, save_splits, split

HERE = Path(__file__).parent


def run(*words, path=None, kill_at=None):
    """Run a command of the command line, to its end or until it kills itself."""
    environment = os.environ | ({"KILL_AT": kill_at} if kill_at else {}) | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-m", "neurofm_shards", *map(str, words), *kill_at_words(kill_at)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    expected = -9 if kill_at else 0
    if done.returncode != expected:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")


def kill_at_words(kill_at):
    """Return the words that make a command kill itself."""
    return ["--plugin", str(HERE / "kill_at.py")] if kill_at else []


def write_inputs(folder):
    """Write the inputs of conversions."""
    folder.mkdir()
    for name, rows in TRIALS.items():
        np.savez(folder / f"{name}.npz", **trials(rows))
    for name, units in UNITS.items():
        write_recording(folder / f"{name}.nwb", name, units)
    for name, rows in (("first", (0, 7)), ("second", (7, 10))):
        text = "\n".join(map(json.dumps, lines(*rows)))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    set_times(folder)


def write_recording(path, name, units):
    """Write a small NWB file."""
    from pynwb import NWBHDF5IO, NWBFile

    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    file = NWBFile("made for tests", name, start, session_id=name, file_create_date=start)
    for unit in range(units):
        file.add_unit(spike_times=spike_times(unit), id=unit)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(file, cache_spec=False)


def write_data_sets(folder, inputs):
    """Write one finished data set of each kind."""
    columns, metadata = arrays(0, SAMPLES)
    for name, options in WRITTEN.items():
        create_shards_from_arrays(folder / name, columns, 3, metadata, **options)
    create_shards_from_arrays(folder / "ragged", ragged(0, SAMPLES), 3)
    with WebDatasetWriter(folder / "single samples", shard_size=3) as writer:
        for row in range(SAMPLES):
            sample, of_sample = single_sample(row)
            writer.write_sample(sample, f"M1/day {row}" if row % 2 else None, of_sample)
    for name, rows in (("loading", (0, 30)), ("loading, other", (30, 40))):
        columns, metadata = loading_columns(*rows)
        create_shards_from_arrays(folder / name, columns, 7, metadata)
    columns, metadata = arrays(0, SAMPLES)
    create_shards_from_arrays(folder / "splits", columns, 3, metadata)
    parts = split(folder / "splits", by="trial", fractions={"train": 0.5, "test": 0.5}, seed=1)
    save_splits(folder / "splits", parts)
    settings = ("--bin-size-ms", "100", "--sequence-length", "10", "--overlap", "0", "--shard-size", "4")
    run("convert", "-i", inputs / "session_a.nwb", "-o", folder / "tables", *settings)
    return {name: rows.tolist() for name, rows in parts.rows.items()}


def write_unfinished(folder, inputs):
    """Write data sets whose writers were killed."""
    a, b, c, d = (inputs / f"{name}.npz" for name in TRIALS)
    size = ("--shard-size", "3")
    run("convert", "-i", a, b, c, "-o", folder / "conversion", *size, kill_at="second shard")
    run("convert", "-i", a, b, "-o", folder / "append", *size)
    run("convert", "-i", a, b, c, d, "-o", folder / "append", "--append", kill_at="second shard")
    run("convert", "-i", a, b, "-o", folder / "overwrite", *size)
    run("convert", "-i", c, d, "-o", folder / "overwrite", *size, "--overwrite", kill_at="second shard")
    run("convert", "-i", a, b, "-o", folder / "deletion", *size, kill_at="second shard")
    run("convert", "-i", c, "-o", folder / "deletion", *size, "--overwrite", kill_at="first deletion")
    run("convert", "-i", a, b, "-o", folder / "drop", *size)
    run("drop", folder / "drop", "--where", 'session_id == "trials_a"', kill_at="first deletion")
    code = (
        "import os, sys; sys.path.append(sys.argv[2])\n"
        "from compat_data import arrays\n"
        "from neurofm_shards import WebDatasetWriter\n"
        "columns, _ = arrays(0, 8)\n"
        "writer = WebDatasetWriter(sys.argv[1], shard_size=3)\n"
        "for row in range(7):\n"
        "    writer.write_sample({name: values[row] for name, values in columns.items()})\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "writer"), str(HERE)], check=False, cwd="/")


def kept_states(folder, checkpoint):
    """Return states of all loaders: at the start, inside an epoch and at its end; and what comes behind them."""
    found = []
    for name, make in loaders(folder / "loading", folder / "loading, other", checkpoint).items():
        for epoch, delivered in ((0, 0), (1, 3), (2, None)):
            checkpoint.unlink(missing_ok=True)
            loader = make()
            loader.set_epoch(epoch)
            items = iter(loader)
            for _ in islice(items, delivered):
                pass
            state = loader.state_dict()
            text = checkpoint_text(loader, checkpoint)
            rest = [rows_of(item) for item in items]
            following = [rows_of(item) for item in loader]
            entry = {"loader": name, "delivered": delivered, "state": state, "rest": rest, "next": following}
            found.append(entry | ({"checkpoint": text} if text else {}))
    checkpoint.unlink(missing_ok=True)
    return found


def checkpoint_text(loader, checkpoint):
    """Return what a loader writes into its checkpoint file, where it has one."""
    if not hasattr(loader, "save_checkpoint"):
        return None
    loader.save_checkpoint()
    return checkpoint.read_text(encoding="utf-8")


def write_third_party(folder, inputs):
    """Build the wheel of a third-party plugin, and write data sets with it."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(HERE / "third_party")], check=True)
    (wheel,) = folder.glob("*.whl")
    settings = ("--offset", "0.5", "--transform", "scale", "--compression", "deflate", "--shard-size", "4")
    run("convert", "-i", inputs / "first.jsonl", "-o", folder / "lines", *settings, path=wheel)
    code = (
        "import sys\n"
        "from stranger_compat import Stamp\n"
        "from neurofm_shards import WebDatasetWriter\n"
        "with WebDatasetWriter(sys.argv[1]) as writer:\n"
        "    for row in range(3):\n"
        "        writer.write_sample({'note': Stamp(f'note {row}')})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    subprocess.run([sys.executable, "-c", code, str(folder / "stamps")], check=True, env=environment, cwd="/")


def main():
    """Run the program."""
    warnings.simplefilter("ignore")
    folder = HERE / f"made_by_{__version__}"
    if folder.exists():
        sys.exit(f"{folder} exists: fixtures of a version are made once")
    folder.mkdir()
    write_inputs(folder / "inputs")
    splits = write_data_sets(folder / "data_sets", folder / "inputs")
    write_unfinished(folder / "unfinished", folder / "inputs")
    states = kept_states(folder / "data_sets", folder / "checkpoint.json")
    (folder / "third_party").mkdir()
    write_third_party(folder / "third_party", folder / "inputs")
    (folder / "expected.json").write_text(json.dumps({"splits": splits, "states": states}) + "\n", encoding="utf-8")
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()  # version control would not keep it


if __name__ == "__main__":
    main()
