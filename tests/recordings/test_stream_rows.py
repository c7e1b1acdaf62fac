"""An inspection becomes a table with one row per stream, or per kind of streams."""

from __future__ import annotations

from neurofm_shards.plugins.interfaces import Inspection
from neurofm_shards.recordings.stream_rows import grouped, stream_rows

TREE = {
    "session": {"session_id": "s1"},
    "time": {"start_s": 0.0, "stop_s": 9.0, "seconds": 9.0},
    "spikes": {
        "units": {"number": 3, "events": 1200, "first_s": 0.5, "last_s": 8.5, "rates_hz": {"least": 1.0, "most": 9.25}}
    },
    "lfp": {
        "a/lfp": {"shape": [9000, 4], "unit": "V", "rate_hz": 1e3, "first_s": 0.0, "seconds": 9.0, "values": "step"}
    },
    "behavior": {
        f"a/pos{i}": {"shape": [90], "unit": "cm", "median_rate_hz": 10.0, "first_s": i, "last_s": 8, "gaps": 2}
        for i in range(4)
    },
    "trials": {"trials": {"rows": 12, "columns": ["start"], "without a stop time": 12}},
    "events": {"bad": {"cannot be used": "3 time stamps for 4 values"}},
    "not converted": {"scratch": "DynamicTable, 1 row"},
}  # fmt: skip


def test_each_stream_is_a_row_with_what_is_known_of_it():
    rows = {row.name: row for row in stream_rows(Inspection("f", TREE))}
    assert len(rows) == 9
    units, lfp = rows["units"], rows["a/lfp"]
    assert (units.modality, units.size, units.rate, units.first_s) == (
        "spikes",
        "3 x 1,200 events",
        "1 to 9.25 Hz",
        0.5,
    )
    assert (lfp.size, lfp.rate, lfp.unit, lfp.last_s, lfp.notes) == ("9,000 x 4", "1000 Hz", "V", 9.0, "step")
    assert rows["trials"].notes == "12 without a stop time"
    assert rows["bad"].notes == "cannot be used: 3 time stamps for 4 values"
    assert rows["scratch"].notes == "DynamicTable, 1 row"


def test_streams_that_are_alike_share_a_row():
    rows = grouped(stream_rows(Inspection("f", TREE)))
    (joined,) = [row for row in rows if len(row.names) > 1]
    assert joined.name == "4 alike: a/pos0 ... pos3"
    assert (joined.first_s, joined.last_s, joined.rate, joined.notes) == (0.0, 8.0, "~10 Hz", "2 gaps")
    assert sum(len(row.names) for row in rows) == 9
