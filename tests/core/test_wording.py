"""Numbers come with the right form of their noun, and texts fit their line."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards import ShardDataset, ShardedDatasetInfo, create_shards_from_arrays, split
from neurofm_shards._wording import counted, first_part, html_table, size_text, without_name
from neurofm_shards.errors import MissingPluginError
from neurofm_shards.plugins.host import NO_PLUGINS
from neurofm_shards.plugins.registry import registry
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events, regular


@pytest.mark.parametrize(
    ("count", "what", "said"),
    [
        (0, "sample", "0 samples"),
        (1, "sample", "1 sample"),
        (1234, "shard", "1,234 shards"),
        (2, "batch", "2 batches"),
        (2, "entry", "2 entries"),
        (2, "key", "2 keys"),
        (2, "box", "2 boxes"),
        (2, "class", "2 classes"),
        (2, "time series", "2 time series"),
        (2, "group of session", "2 groups of session"),
        (1, "process", "1 process"),
    ],
)
def test_nouns_follow_their_number(count, what, said):
    assert counted(count, what) == said


def test_sizes_have_decimal_units():
    assert [size_text(n) for n in (0, 999, 1000, 2_500_000, 7e9, 5e13)] == [
        "0 B", "999 B", "1 kB", "2.5 MB", "7 GB", "50 TB"
    ]  # fmt: skip


def test_long_texts_are_cut_where_it_shows():
    assert first_part("a\n  b", 3) == "a b"
    assert first_part("abcdef", 5) == "abcd…"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.tar: cut off", "cut off"),
        ("/data/a.tar, byte 0: the file is empty", "byte 0: the file is empty"),
        ("b.tar: cut off", "b.tar: cut off"),
        ("its index is of a.tar: no", "its index is of a.tar: no"),
    ],
)
def test_a_message_below_a_name_does_not_begin_with_it(text, said):
    assert without_name(text, "a.tar") == said


def test_texts_are_escaped_and_numbers_readable():
    found = html_table("<b>", [("a & b", 12345, None)], ("<i>", "n", "none"))
    assert "<b>" not in found
    assert "<i>" not in found
    assert "a &amp; b" in found
    assert "12,345" in found


@pytest.fixture
def shards(tmp_path):
    metadata = [{"session_id": f"s{i % 4}"} for i in range(12)]
    create_shards_from_arrays(tmp_path, {"x": np.zeros((12, 5, 3), "u1")}, metadata=metadata)
    return tmp_path


def test_data_sets_splits_and_recordings_are_tables(shards):
    dataset = ShardDataset(shards)
    assert "12 of 12 samples" in dataset._repr_html_()
    assert ">uint8<" in dataset._repr_html_()
    assert ">12<" in ShardedDatasetInfo(shards)._repr_html_()
    assert ">(5, 3)<" in dataset._repr_html_()
    assert ">(5, 3)<" in ShardedDatasetInfo(shards)._repr_html_()
    splits = split(dataset.collection, by="session", fractions={"train": 0.5, "test": 0.5})
    assert all(f">{count}<" in splits._repr_html_() for count in splits.counts().values())
    recording = InMemoryRecording([events("units", {"1": [0.5]}), regular("lfp", np.zeros((9, 2)), 10.0, unit="V")])
    assert all(f">{text}<" in recording._repr_html_() for text in ("units", "1 ids", "lfp", "(9, 2)", "V"))


def test_a_sample_that_nothing_can_draw_says_what_to_install(shards, monkeypatch):
    monkeypatch.setenv(NO_PLUGINS, "1")
    registry.cache_clear()
    try:
        with pytest.raises(MissingPluginError, match=r"pip install 'neurofm-shards\[report\]'"):
            ShardDataset(shards)[0].plot()
    finally:
        registry.cache_clear()
