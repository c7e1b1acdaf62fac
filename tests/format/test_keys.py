"""Names inside a shard: taken apart as webdataset does, and made of any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm_shards.errors import ConfigError
from neurofm_shards.format.keys import check_field, escape_key, split_name


def test_names_are_taken_apart_as_webdataset_does():
    from webdataset.tariterators import base_plus_ext

    for name in ("k.spikes.pyd", "a/k.npy", "a.b/k.x.y.npy", "k", "a/b", ".hidden", "a/.hidden"):
        key, extension = base_plus_ext(name)
        parts = split_name(name)
        if key is None or key.endswith("/"):
            assert parts is None
        else:
            whole = parts.extension if parts.field == parts.extension else f"{parts.field}.{parts.extension}"
            assert (parts.key, whole) == (key, extension)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=14), st.text(min_size=1, max_size=14))
def test_different_ids_give_different_safe_keys(one, other):
    keys = [escape_key(text) for text in (one, other) if text.isprintable() or text == one]
    for key in keys:
        assert key.isascii()
        assert key.replace("_", "").replace("-", "").isalnum() or set(key) <= {"_", "-"}
        assert not key.startswith(("__", "."))
    if len(keys) == 2 and one != other:
        assert keys[0] != keys[1]


@pytest.mark.parametrize("field", ["a.b", "", "__x", "metadata", "Metadata", "a/b", "é", 3])
def test_field_names_that_break_readers_are_refused(field):
    with pytest.raises(ConfigError):
        check_field(field)
