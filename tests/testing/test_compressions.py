"""Each check of the compression suite fails on a compression that is broken in just that way."""

import io
import lzma
import sys
from itertools import count
from pathlib import Path

import pytest

from neurofm_shards import register_compression
from neurofm_shards.compression.streams import CheckedStream, StreamChain
from neurofm_shards.errors import FormatError
from neurofm_shards.plugins.entries import CompressionEntry
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.testing import CompressionConformance

sys.path.insert(0, str(Path(__file__).parent))
from running_suites import checks, failing


class Lzma(Compression):
    """LZMA streams in the format of lzma-utils, one behind the other."""

    name = "lzma"
    suffix = ".lzma"
    magic = b"\x5d"

    def compress_frame(self, raw):
        return lzma.compress(raw, lzma.FORMAT_ALONE, preset=0)

    def decompress_frame(self, data, out):
        decoder = decompressor()
        try:
            raw = decoder.decompress(data, len(out) + 1)
        except lzma.LZMAError as error:
            raise FormatError(f"damaged: {error}") from error
        if len(raw) != len(out) or not decoder.eof or decoder.unused_data:
            raise FormatError("another size than promised")
        out[:] = raw

    def open(self, file):
        return CheckedStream(StreamChain(file, decompressor), "lzma", (lzma.LZMAError, EOFError))


def decompressor():
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=1 << 26)


class Suite(CompressionConformance):
    name = "lzma"


class ReadsOneFrame(Lzma):
    def open(self, file):
        return io.BytesIO(decompressor().decompress(file.read()))


class NeedsOrder(Lzma):
    """Frames must not become smaller: a decoder that goes on from frame to frame."""

    def __init__(self):
        self.last = 0

    def decompress_frame(self, data, out):
        if len(out) < self.last:
            raise FormatError("out of order")
        self.last = len(out)
        super().decompress_frame(data, out)


class FillsTheFront(Lzma):
    def decompress_frame(self, data, out):
        try:
            raw = lzma.decompress(data, lzma.FORMAT_ALONE)[: len(out)]
        except lzma.LZMAError as error:
            raise FormatError("damaged") from error
        out[: len(raw)] = raw


class LetsErrorsThrough(Lzma):
    def decompress_frame(self, data, out):
        raw = lzma.decompress(data, lzma.FORMAT_ALONE)
        if len(raw) != len(out):
            raise FormatError("another size than promised")
        out[:] = raw


class SaysNothing(Lzma):
    def decompress_frame(self, data, out):
        try:
            super().decompress_frame(data, out)
        except FormatError:
            raise FormatError("") from None


class CountsFrames(Lzma):
    def __init__(self):
        self.calls = count()

    def compress_frame(self, raw):
        return lzma.compress(raw, lzma.FORMAT_ALONE, preset=next(self.calls) % 3)


class SwapsTheHalvesOfLargeFrames(Lzma):
    """Right for the frames of the other checks, wrong for those of a shard."""

    def compress_frame(self, raw):
        raw = bytes(raw)
        return super().compress_frame(raw[len(raw) // 2 :] + raw[: len(raw) // 2] if len(raw) > 80_000 else raw)


class LetsErrorsOfFilesThrough(Lzma):
    def open(self, file):
        return StreamChain(file, decompressor)


class ReadsEverythingAtOnce(Lzma):
    def open(self, file):
        with super().open(file) as stream:
            return io.BytesIO(stream.read())


#: Fault to (compression, what the entry says differently, checks that fail for it).
BROKEN = {
    "other suffix": (Lzma, {"suffix": ".lz"}, {"test_the_entry_says_what_the_class_says"}),
    "other magic": (Lzma, {"magic": b"ZZ"}, {"test_the_entry_says_what_the_class_says"}),
    "one frame only": (ReadsOneFrame, {}, {"test_the_whole_file_decompresses"}),
    "order": (NeedsOrder, {}, {"test_frames_decompress_alone_and_in_any_order"}),
    "any size": (FillsTheFront, {}, {"test_a_frame_of_another_size_is_refused"}),
    "errors of others": (LetsErrorsThrough, {}, {"test_damaged_frames_give_format_errors_only"}),
    "errors without words": (SaysNothing, {}, {"test_damaged_frames_give_format_errors_only"}),
    "not pure": (CountsFrames, {}, {"test_threads_give_the_same_bytes"}),
    "errors of files": (LetsErrorsOfFilesThrough, {}, {"test_damaged_files_give_format_errors_only"}),
    "everything at once": (ReadsEverythingAtOnce, {}, {"test_a_file_is_opened_piece_by_piece"}),
    "wrong in shards": (SwapsTheHalvesOfLargeFrames, {}, {"test_it_works_in_a_data_set"}),
}


def register(factory, **changed):
    facts = {"name": "lzma", "summary": "lzma", "suffix": ".lzma", "magic": b"\x5d", **changed}
    register_compression(CompressionEntry(factory=factory, **facts))


def test_a_sound_compression_passes(tmp_path):
    register(Lzma)
    assert failing(Suite, tmp_path) == set()


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_compression_fails_the_check_of_its_fault(fault, tmp_path):
    factory, changed, expected = BROKEN[fault]
    register(factory, **changed)
    assert expected <= failing(Suite, tmp_path)


def test_every_check_is_known_to_fail():
    assert set.union(*(expected for _, _, expected in BROKEN.values())) == set(checks(CompressionConformance))
