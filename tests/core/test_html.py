"""Notebooks show tables, whatever the names are."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards import ShardDataset, ShardedDatasetInfo, create_shards_from_arrays, split
from neurofm_shards._html import html_table
from neurofm_shards.errors import MissingPluginError
from neurofm_shards.plugins.host import NO_PLUGINS
from neurofm_shards.plugins.registry import registry
from neurofm_shards.recordings import InMemoryRecording
from neurofm_shards.recordings.memory import events, regular


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
