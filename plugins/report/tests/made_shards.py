"""A small data set with everything a report can draw."""

from __future__ import annotations

import numpy as np

from neurofm_shards import WebDatasetWriter

SPLITS = ("train", "train", "train", "val", "test")


def make(folder, *, sessions=2, windows=10, overlap=False):
    """Write windows of 1 s with counts, LFP and partly masked behaviour."""
    rng = np.random.default_rng(5)
    wave = 1e-4 * np.sin(2 * np.pi * 20 * np.arange(250) / 250)[:, None]
    with WebDatasetWriter(folder, shard_size=7) as writer:
        for session in range(sessions):
            for i in range(windows):
                start = float(i if not overlap else i * 0.5)
                valid = np.ones((50, 2), bool)
                valid[40:] = i % 2 == 0
                writer.write_sample(
                    {
                        "spikes": rng.poisson(0.4, (50, 6)).astype(np.uint8),
                        "lfp": (wave + rng.normal(0, 1e-6, (250, 3))).astype("f4"),
                        "behavior": np.where(valid, rng.normal(3.0, 1.0, (50, 2)), np.nan).astype("f4"),
                        "behavior_valid": valid,
                        "gain": np.float32(1.5),
                        "note": "quiet",
                    },
                    metadata={
                        "session_id": f"s{session}", "subject_id": "mouse", "split": SPLITS[i * 5 // windows],
                        "window_start_s": start, "window_stop_s": start + 1.0, "trial": i,
                    },
                )  # fmt: skip
    return folder
