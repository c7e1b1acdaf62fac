"""Each check of the codec suite fails on a codec that is broken in just that way."""

import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from neurofm_shards import register_codec
from neurofm_shards.errors import EncodeError, FormatError
from neurofm_shards.plugins.entries import CodecEntry
from neurofm_shards.plugins.interfaces import Codec
from neurofm_shards.testing import CodecConformance
from neurofm_shards.types import ArrayLayout

sys.path.insert(0, str(Path(__file__).parent))
from running_suites import checks, failing


class VectorCodec(Codec):
    """The raw bytes behind a four-byte mark."""

    name = "vec"
    extension = "vec"

    def accepts(self, value):
        return isinstance(value, np.ndarray) and value.dtype == np.float64 and value.ndim == 1

    def encode(self, value):
        if not self.accepts(value):
            raise EncodeError("the vec codec stores float64 vectors")
        return [b"VEC1", value.tobytes()]

    def decode(self, payload):
        if bytes(payload[:4]) != b"VEC1" or len(payload) % 8 != 4:
            raise FormatError("not a .vec member")
        return np.frombuffer(payload[4:], np.float64).copy()

    def layout(self, head, size):
        return ArrayLayout("<f8", ((size - 4) // 8,), 4)

    def envelope(self, dtype, shape):
        return (b"VEC1", b"") if dtype == "<f8" and len(shape) == 1 else None


class Suite(CodecConformance):
    name = "vec"
    values = (np.arange(5.0), np.zeros(0), np.array([np.nan, -0.0]))
    refused = (1.5, "text", np.ones((2, 2)), np.ones(3, np.float32))


class Nothing(Suite):
    values = ()


class RoundsOff(VectorCodec):
    def encode(self, value):
        return [b"VEC1", value.astype(np.float32).astype(np.float64).tobytes()]


class CountsCalls(VectorCodec):
    calls = count()

    def encode(self, value):
        return [b"VEC1", value.tobytes(), next(self.calls).to_bytes(8, "little")]

    def decode(self, payload):
        return super().decode(payload[:-8])

    def layout(self, head, size):
        return None

    def envelope(self, dtype, shape):
        return None


class TakesAnything(VectorCodec):
    def accepts(self, value):
        return True

    def encode(self, value):
        return [b"VEC1", np.atleast_1d(np.asarray(value)).tobytes()]


class GivesViews(VectorCodec):
    def decode(self, payload):
        super().decode(payload)
        return np.frombuffer(payload[4:], np.float64)


class LetsErrorsThrough(VectorCodec):
    def decode(self, payload):
        if bytes(payload[:4]) != b"VEC1":
            raise FormatError("not a .vec member")
        return np.frombuffer(payload[4:], np.float64).copy()


class SaysNothing(VectorCodec):
    def decode(self, payload):
        try:
            return super().decode(payload)
        except FormatError:
            raise FormatError("") from None


class PointsElsewhere(VectorCodec):
    def layout(self, head, size):
        return ArrayLayout("<f8", ((size - 4) // 8,), 0)


class CountsTheHead(VectorCodec):
    def layout(self, head, size):
        return ArrayLayout("<f8", ((len(head) - 4) // 8,), 4)


class SendsDifferences(VectorCodec):
    """Each value as its difference from the one before, which only this very object remembers."""

    def __init__(self):
        self.last = 0.0

    def encode(self, value):
        before, self.last = self.last, self.last + 1.0
        return [b"VEC1", (value - before).tobytes()]

    def envelope(self, dtype, shape):
        return None


class PromisesAnotherPrefix(VectorCodec):
    def envelope(self, dtype, shape):
        return b"VEC2", b""


class CannotTravel(VectorCodec):
    def __init__(self):
        self.hook = lambda: None


def entry(factory, **changed):
    facts = {"name": "vec", "summary": "vectors", "extension": "vec", **changed}
    return CodecEntry(factory=factory, **facts)


def with_extension(text):
    return type("Renamed", (VectorCodec,), {"extension": text})


BROKEN = {
    "no values": (entry(VectorCodec), Nothing, {"test_there_is_something_to_check"}),
    "other extension": (entry(VectorCodec, extension="v"), Suite, {"test_the_entry_says_what_the_class_says"}),
    "other version": (entry(VectorCodec, version=2), Suite, {"test_the_entry_says_what_the_class_says"}),
    "lossy": (entry(RoundsOff), type("S", (Suite,), {"values": (np.array([0.1]),), "refused": ()}), {
        "test_values_come_back", "test_envelope_gives_what_encode_gives",
    }),
    "different bytes": (entry(CountsCalls), Suite, {"test_the_same_value_gives_the_same_bytes"}),
    "takes anything": (entry(TakesAnything), Suite, {"test_other_values_are_refused"}),
    "views": (entry(GivesViews), Suite, {
        "test_arrays_come_back_new_and_writeable", "test_values_do_not_look_at_the_payload_any_more",
    }),
    "errors of others": (entry(LetsErrorsThrough), Suite, {"test_damaged_payloads_give_format_errors_only"}),
    "errors without words": (entry(SaysNothing), Suite, {"test_damaged_payloads_give_format_errors_only"}),
    "wrong layout": (entry(PointsElsewhere), Suite, {"test_layout_describes_what_decode_gives"}),
    "wrong envelope": (entry(PromisesAnotherPrefix), Suite, {"test_envelope_gives_what_encode_gives"}),
    "cannot be pickled": (entry(CannotTravel), Suite, {"test_it_can_be_pickled"}),
    "layout of what was seen": (entry(CountsTheHead), type("S", (Suite,), {"values": (np.arange(999.0),)}), {
        "test_layout_describes_what_decode_gives",
    }),
    "memory": (entry(SendsDifferences), Suite, {"test_it_works_in_a_data_set"}),
}  # fmt: skip


def test_a_sound_codec_passes(tmp_path):
    register_codec(entry(VectorCodec))
    assert failing(Suite, tmp_path) == set()


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_codec_fails_the_check_of_its_fault(fault, tmp_path):
    registered, suite, expected = BROKEN[fault]
    register_codec(registered)
    assert expected <= failing(suite, tmp_path)


@pytest.mark.parametrize("extension", ["UP", "a.b"])
def test_an_extension_that_readers_change_is_refused_or_caught(extension, tmp_path):
    register_codec(entry(with_extension(extension), extension=extension))
    assert "test_the_entry_says_what_the_class_says" in failing(Suite, tmp_path)


def test_every_check_is_known_to_fail():
    assert set.union(*(expected for _, _, expected in BROKEN.values())) == set(checks(CodecConformance))
