"""The table of install hints names exactly what our distributions register."""

from __future__ import annotations

import pytest

from neurofm_shards.plugins.registry import EXTRAS, install_hint, install_hint_for_file, registry

pytestmark = pytest.mark.plugins


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_table_names_what_the_distribution_registers(extra):
    found: dict[str, set[str]] = {}
    for kind in registry().kinds():
        for item in kind.entries():
            if item.distribution == f"neurofm-shards-{extra}":
                found.setdefault(kind.kind, set()).add(item.entry.name)
    if not found:
        pytest.skip(f"neurofm-shards-{extra} is not installed")
    assert {kind: set(names) for kind, names in EXTRAS[extra].items() if kind != "suffix"} == found


def test_hints_are_found_by_name_and_by_file():
    assert install_hint("compression", "zstd") == "pip install 'neurofm-shards[compression]'"
    assert install_hint("command", "report") == "pip install 'neurofm-shards[report]'"
    assert install_hint("codec", "zstd") == ""
    assert install_hint_for_file("/data/Day1.NWB") == "pip install 'neurofm-shards[nwb]'"
    assert install_hint_for_file("shard_000000.tar.lz4") == "pip install 'neurofm-shards[compression]'"
    assert install_hint_for_file("a.lz4") == ""
