"""Numbers come with the right form of their noun, and texts fit their line."""

from __future__ import annotations

import pytest

from neurofm_shards._wording import counted, first_part, size_text, without_name


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
