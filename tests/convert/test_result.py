"""What a conversion says of its result: where modalities are valid, what was dropped, what was odd."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm_shards.cli.convert_report import validity_notes
from neurofm_shards.format.manifest import valid_shares


def test_shares_of_several_inputs_are_weighted_by_their_windows():
    facts = [({"valid_share": {"a": 1.0, "b": 0.5}}, 30), ({"valid_share": {"a": 0.0}}, 10), ({}, 5)]
    assert valid_shares(facts) == {"a": 0.75, "b": 0.5}


def test_inputs_that_lack_a_modality_say_nothing_of_its_validity():
    said = {"valid_share": {"spikes": 1.0, "behavior": 1.0}, "modalities": {"spikes": {"kept": 5}}}
    has = {"valid_share": {"spikes": 1.0, "behavior": 0.4}, "modalities": {"spikes": {}, "behavior": {"paths": ["x"]}}}
    assert valid_shares([(said, 90), (has, 10)]) == {"spikes": 1.0, "behavior": 0.4}


def test_the_command_line_says_shares_below_one_and_warns_of_almost_nothing():
    assert validity_notes({"spikes": 1.0, "behavior": 0.4413, "lfp": 0.0004}) == [
        "behavior is valid in 44 % of windows; --min-valid-fraction 1 keeps those",
        "warning: lfp is valid in 0.04 % of windows; --min-valid-fraction 1 keeps those",
    ]


def test_the_result_of_the_python_call_says_it_too(tmp_path):
    pytest.importorskip("neurofm_shards_npz")
    from neurofm_shards.convert.session import convert_inputs

    times = np.concatenate([np.arange(0, 4.4, 0.01), np.arange(8, 10, 0.01)])
    np.savez(tmp_path / "a.npz", x=np.zeros(len(times)), t=times)
    config = {"source": {"kind": "npz", "timestamps": "t"}, "windows": {"overlap": 0.0}}
    done = convert_inputs([tmp_path / "a.npz"], tmp_path / "out", config)
    # seconds 0 to 3, and 8: the last half bin of second 9 lies behind the last sample
    assert done["valid_shares"]["behavior"] == 0.5
    assert isinstance(done["drops"], dict)
    assert isinstance(done["problems"], list)
