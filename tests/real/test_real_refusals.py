"""Real files that hold nothing, or nothing that can be trusted, say so."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from neurofm_shards.convert.session import convert_inputs
from neurofm_shards.errors import NothingToConvertError, SourceError
from neurofm_shards.loading.datasets import ShardDataset

pytestmark = pytest.mark.plugins


def test_an_extension_that_pynwb_cannot_construct_is_named(shared_data, tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "unknown.nwb"
    shutil.copyfile(shared_data / "ndx_events_construct_error.nwb", path)
    with h5py.File(path, "r+") as file:
        for table in file["events"].values():
            table.attrs["neurodata_type"] = "NothingThatIsKnown"
    with pytest.raises(SourceError, match=r"ndx-events 0\.4\.0"):
        convert_inputs([path], tmp_path / "out")


def test_tables_of_events_are_read_where_pynwb_cannot_construct_them(shared_data, tmp_path):
    h5py = pytest.importorskip("h5py")
    path = shared_data / "ndx_events_construct_error.nwb"
    with h5py.File(path) as file:
        tables = [file[f"events/{name}"] for name in ("stimulus_presentations", "ttl_events")]
        expected = sum(len(table["timestamp"]) for table in tables)
    convert_inputs([path], tmp_path / "out", {"windows": {"overlap": 0.0, "on_last_window": "pad"}})
    data = ShardDataset(tmp_path / "out")
    assert sum(int(data[i]["events"].sum()) for i in range(len(data))) == expected
    names = [row["unit"] for row in data.table("codes")]
    with h5py.File(path) as file:
        kinds = sorted(text.decode() for text in file["events/stimulus_presentations/stimulus_category"])
        pulses = sorted(map(str, set(file["events/ttl_events/pulse_value"][:].tolist())))
    assert names == [*kinds, *pulses]


@pytest.mark.parametrize("name", ["metadata_only.nwb", "empty_nwb_1.1.2.nwb"])
def test_files_without_data_say_what_was_looked_for(windows_of, name):
    with pytest.raises(NothingToConvertError, match=r"nothing to convert .* looked for units tables"):
        windows_of(name)


def test_inspect_opens_every_real_file(shared_data):
    from neurofm_shards.plugins.registry import registry

    pytest.importorskip("neurofm_shards_nwb")
    source = registry().sources.make("nwb")
    for path in sorted(shared_data.glob("*.nwb")):
        inspection = source.inspect((str(path),))
        assert "NWB" in inspection.title
        assert inspection.tree


def test_the_references_share_no_code_with_the_program():
    for path in Path(__file__).parent.glob("reference_*.py"):
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        own = {module.stem for module in Path(__file__).parent.glob("reference_*.py")}
        assert imported <= {"__future__", "h5py", "numpy", "io", "itertools", "json", "tarfile", *own}
