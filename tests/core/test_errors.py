"""Errors are built from one message, survive pickling, and never let a terminal obey a name from a file."""

from __future__ import annotations

import pickle
import traceback

import pytest

from neurofm_shards import errors

CLASSES = [
    found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, errors.NeurofmShardsError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_spells_out_control_characters_wherever_it_is_printed(kind):
    error = kind("no unit 'a\x1b]0;mine\x07\x9b2J' in\nfile")
    for found in (error, pickle.loads(pickle.dumps(error))):
        text = "".join(traceback.format_exception(found))
        assert "no unit 'a\\u001b]0;mine\\u0007\\u009b2J' in\nfile" in text
        assert not {"\x1b", "\x07", "\x9b"} & set(text)
