"""What every codec must do."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from neurofm_shards.errors import EncodeError, FormatError
from neurofm_shards.plugins.interfaces import Codec
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing.comparing import damaged, same


class CodecConformance:
    """Checks a registered codec. Set ``name`` and ``values`` at least.

    Attributes
    ----------
    name : str
        The codec's registered name.
    values : sequence
        Values it stores; the more kinds the better.
    refused : sequence
        Values it must refuse: ``accepts`` is False or ``encode`` raises ``EncodeError``.
    """

    name: ClassVar[str]
    values: ClassVar[Sequence[Any]]
    refused: ClassVar[Sequence[Any]] = ()

    @property
    def codec(self) -> Codec:
        """The codec under test."""
        return cast("Codec", registry().codecs.make(self.name))

    def equal(self, stored: Any, loaded: Any) -> bool:
        """Return whether a value came back as it should; override where the codec is lossy on purpose."""
        return same(stored, loaded)

    def encoded(self, value: Any) -> bytes:
        """Return the payload as one bytes object."""
        return b"".join(bytes(part) for part in self.codec.encode(value))

    def test_there_is_something_to_check(self) -> None:
        """At least one value."""
        assert len(self.values) > 0, "set `values`"

    def test_the_entry_says_what_the_class_says(self) -> None:
        """Name, extension and version agree."""
        entry = registry().codecs.get(self.name).entry
        codec = self.codec
        assert (entry.name, entry.extension, entry.version) == (codec.name, codec.extension, codec.version)
        assert entry.extension.isalnum(), "an extension is letters and digits, without a dot"
        assert entry.extension == entry.extension.lower(), "WebDataset readers lower-case member names"

    def test_values_come_back(self) -> None:
        """``decode(encode(value))`` is the value."""
        for value in self.values:
            assert self.codec.accepts(value), f"accepts() must be true for {value!r:.80}"
            loaded = self.codec.decode(memoryview(self.encoded(value)))
            assert self.equal(value, loaded), f"{value!r:.80} came back as {loaded!r:.80}"

    def test_the_same_value_gives_the_same_bytes(self) -> None:
        """Two instances encode alike."""
        for value in self.values:
            assert same(self.encoded(value), self.encoded(value)), "two encodings of one value differ"

    def test_other_values_are_refused(self) -> None:
        """``accepts`` is False, or ``encode`` raises ``EncodeError`` with a message."""
        for value in self.refused:
            if self.codec.accepts(value):
                with pytest.raises(EncodeError, match="."):
                    self.codec.encode(value)

    def test_arrays_come_back_new_and_writeable(self) -> None:
        """A decoded array shares no memory with the payload."""
        for value in self.values:
            payload = bytearray(self.encoded(value))
            loaded = self.codec.decode(memoryview(payload))
            if isinstance(loaded, np.ndarray):
                assert loaded.flags.writeable, "decoded arrays must be writeable"
                assert not np.shares_memory(loaded, np.frombuffer(payload, np.uint8)), "decoded arrays must be copies"

    def test_values_do_not_look_at_the_payload_any_more(self) -> None:
        """What was decoded stays when the payload's memory is used for something else, arrays inside values too."""
        for value in self.values:
            payload = bytearray(self.encoded(value))
            loaded = self.codec.decode(memoryview(payload))
            payload[:] = bytes(len(payload))
            assert self.equal(value, loaded), f"{value!r:.80} changed with its payload: decode must copy"

    def test_damaged_payloads_give_format_errors_only(self) -> None:
        """Whatever the bytes, ``decode`` returns something or raises ``FormatError``."""
        for number, value in enumerate(self.values):
            for payload in damaged(self.encoded(value), seed=number):
                try:
                    self.codec.decode(memoryview(payload))
                except FormatError as error:
                    assert str(error), "say what is wrong"  # noqa: PT017  (other errors must fail the test)

    def test_layout_describes_what_decode_gives(self) -> None:
        """Where ``layout`` says the array lies, there it lies."""
        for value in self.values:
            payload = self.encoded(value)
            layout = self.codec.layout(memoryview(payload)[:512], len(payload))
            if layout is None:
                continue
            dtype = np.dtype(layout.dtype)
            count = int(np.prod(layout.shape, dtype=np.int64))
            raw = np.frombuffer(payload, dtype, count, layout.offset)
            array = raw.reshape(layout.shape, order="F" if layout.fortran else "C")
            assert same(np.ascontiguousarray(self.codec.decode(memoryview(payload))), np.ascontiguousarray(array))

    def test_envelope_gives_what_encode_gives(self) -> None:
        """Prefix, raw data and suffix are the payload."""
        for value in self.values:
            if not isinstance(value, np.ndarray):
                continue
            envelope = self.codec.envelope(value.dtype.str, value.shape)
            if envelope is not None:
                prefix, suffix = envelope
                laid_out = prefix + value.tobytes() + suffix
                assert same(laid_out, self.encoded(value)), "envelope and encode disagree"

    def test_it_can_be_pickled(self) -> None:
        """Worker processes get a copy."""
        copy = pickle.loads(pickle.dumps(self.codec))  # noqa: S301  (our own bytes)
        assert copy.name == self.codec.name

    def test_it_works_in_a_data_set(self, tmp_path: Path) -> None:
        """Written by the shard writer and read back by key."""
        from neurofm_shards import ShardDataset, WebDatasetWriter  # noqa: PLC0415  (needs torch)

        for i, value in enumerate(self.values):  # a field has one type in all samples of a data set
            folder = tmp_path / f"shards{i}"
            with WebDatasetWriter(folder, codecs={"field": self.name}) as writer:
                writer.write_sample({"field": value})
            loaded = ShardDataset(folder, counts="stored")[0]["field"]
            loaded = loaded.numpy() if hasattr(loaded, "numpy") else loaded
            assert self.equal(value, loaded), f"{value!r:.80} came back as {loaded!r:.80}"
