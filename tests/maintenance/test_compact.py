"""Small shards become full ones; every sample keeps its place, key and content, and a crash is finished."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards import ShardDataset
from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import FormatError
from neurofm_shards.maintenance.compact import compact, runs
from neurofm_shards.maintenance.validate import validate_dataset
from neurofm_shards.reading.collection import ShardCollection


@given(st.lists(st.integers(1, 6), max_size=12), st.integers(1, 6))
def test_runs_cover_all_shards_once_and_never_make_more(counts, size):
    counts = [min(count, size) for count in counts]
    found = list(runs(counts, size))
    assert [number for run in found for number in range(run.first, run.stop)] == list(range(len(counts)))
    for run in found:
        if run.sizes:
            assert sum(run.sizes) == sum(counts[run.first : run.stop])
            assert len(run.sizes) < run.stop - run.first
            assert set(run.sizes[:-1]) <= {size}
    after = [n for run in found for n in (run.sizes or counts[run.first : run.stop])]
    assert list(runs(after, size)) == list(runs(after, size))
    assert all(not run.sizes for run in runs(after, size)), "nothing is left to do"


def contents(folder):
    """Every sample in order: key, arrays and metadata without the places that shards give."""
    with ShardCollection.open(folder) as data:
        rows = np.arange(data.num_samples)
        places = ("shard_idx", "sample_idx_in_shard")
        values = data.gather(rows)["x"]
        return [
            (key, values[i].tobytes(), {name: value for name, value in metadata.items() if name not in places})
            for i, (key, metadata) in enumerate(zip(data.keys(rows), data.metadata(rows), strict=True))
        ]


@pytest.fixture(params=["none", "gz"])
def appended(request, toys, tmp_path):
    """Full shards, then three appended inputs that leave small ones."""
    out = tmp_path / "out"
    config = {"shard_size": 4, "compression": request.param}
    convert_inputs(toys(a={"n": 8}), out, config)
    for name in "bcd":
        convert_inputs(toys(**{name: {"n": 2}}), out, config, mode="append")
    return out


def test_samples_keep_place_key_and_content_and_full_shards_their_bytes(appended, tree):
    before, files = contents(appended), tree(appended)
    told = compact(appended, dry_run=True)
    assert tree(appended) == files
    report = compact(appended)
    assert report == told
    assert (report["shards_before"], report["shards_after"], report["samples_rewritten"]) == (5, 4, 6)
    assert contents(appended) == before
    after = tree(appended)
    kept = [name for name in files if name.startswith(("shard_000000", "shard_000001"))]
    assert len(kept) == 2
    assert all(after[name] == files[name] for name in kept)
    assert not [name for name in after if "shard_000003" in name], "the small shards are gone"
    assert validate_dataset(appended).ok
    assert compact(appended)["shards_rewritten"] == []


def test_more_can_be_appended_afterwards(appended, toys):
    compact(appended)
    convert_inputs(toys(e={"n": 2}), appended, {"shard_size": 4}, mode="append")
    assert [key for key, _, _ in contents(appended)] == [f"sample_{i + 1:09d}" for i in range(16)]
    assert validate_dataset(appended).ok


def test_damage_is_found_and_everything_stays(toys, tmp_path, tree):
    out = tmp_path / "out"
    convert_inputs(toys(a={"n": 2}), out, {"shard_size": 4})
    convert_inputs(toys(b={"n": 2}), out, {"shard_size": 4}, mode="append")
    shard = out / "shard_000001.tar"
    data = bytearray(shard.read_bytes())
    at = ShardCollection.open(out).index(1).record_offsets[0] + 600
    data[at] ^= 1
    shard.write_bytes(data)
    before = tree(out)
    with pytest.raises(FormatError):
        compact(out)
    assert tree(out) == before


@pytest.mark.parametrize("moment", [1, 3])
def test_an_interrupted_run_is_undone_or_finished(toys, tmp_path, tree, monkeypatch, moment):
    for name in ("out", "whole"):
        for session in ("a", "b", "c"):
            mode = "new" if session == "a" else "append"
            convert_inputs(toys(**{session: {"n": 2}}), tmp_path / name, {"shard_size": 4}, mode=mode)
    before = tree(tmp_path / "out")
    compact(tmp_path / "whole")

    class PowerCut(BaseException):
        pass

    calls, rename = [], os.replace

    def failing(source, target, **folders):
        if "commit-" in f"{source}{target}" or calls:
            calls.append(target)
            if len(calls) == moment:
                raise PowerCut
        rename(source, target, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(PowerCut):
            compact(tmp_path / "out")
    compact(tmp_path / "out")  # the next run cleans up, and does what is left to do
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(before) > len(tree(tmp_path / "out"))


def test_the_data_set_opens_as_before(appended):
    compact(appended)
    dataset = ShardDataset(appended)
    assert [len(dataset), dataset[13]["x"].shape[0]] == [14, 5]
