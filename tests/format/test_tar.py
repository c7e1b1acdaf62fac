"""Archives of others are understood; hostile ones are refused by name and place."""

from __future__ import annotations

import io
import tarfile
from itertools import pairwise

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm_shards.errors import FormatError
from neurofm_shards.format.headers import header_bytes
from neurofm_shards.format.tar import TarReader

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def archive(files, fmt=tarfile.USTAR_FORMAT, change=None):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as tar:
        for name, payload in files:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            if change:
                change(info)
            tar.addfile(info, io.BytesIO(payload))
    return buffer.getvalue()


GOOD = [(f"k{i}.{field}", bytes([i]) * (300 * i)) for i in range(3) for field in ("a.npy", "metadata.json")]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("stem", ["k", "long_" * 30, "é"])
def test_members_are_where_tarfile_finds_them(fmt, stem):
    if fmt == tarfile.USTAR_FORMAT and stem != "k":
        pytest.skip("plain USTAR cannot say such names")
    raw = archive([(f"{stem}{name}", payload) for name, payload in GOOD], fmt, lambda info: setattr(info, "mtime", 1.5))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
    for source in (raw, io.BytesIO(raw)):
        assert [(m.name, m.offset, m.size) for m in TarReader(source)] == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=1500), min_size=1, max_size=3), max_size=5), st.sampled_from(FORMATS))
def test_memory_and_stream_agree_and_digests_cover_whole_records(samples, fmt):
    files = [(f"s{i}.f{j}.bin", payload) for i, fields in enumerate(samples) for j, payload in enumerate(fields)]
    raw = archive(files, fmt)
    readers = [TarReader(raw, digests=True), TarReader(io.BytesIO(raw), digests=True)]
    found = [list(reader) for reader in readers]
    assert found[0] == found[1]
    assert [raw[m.offset : m.offset + m.size] for m in found[0]] == [payload for _, payload in files]
    bounds = readers[0].record_offsets
    expected = [xxhash.xxh3_64_intdigest(raw[a:b]) for a, b in pairwise(bounds)]
    assert readers[0].record_digests == readers[1].record_digests == expected
    assert readers[0].record_offsets == readers[1].record_offsets
    assert readers[0].tar_bytes == readers[1].tar_bytes == len(raw)


def patched(at, text, *, fix=True):
    raw = bytearray(archive(GOOD))
    raw[at : at + len(text)] = text
    if fix:
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\x00 " % sum(raw[:512])
    return bytes(raw)


def pax(records, size=4):
    body = b"".join(b"%d %b=%b\n" % (len(k) + len(v) + 5, k, v) for k, v in records)
    header = bytearray(header_bytes("x", len(body)))
    header[156:157] = b"x"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    end = bytes(1024)
    return bytes(header) + body.ljust(512, b"\0") + header_bytes("k.a.npy", size) + bytes(512) + end


def shortened_long_name():
    raw = bytearray(archive([("k/" * 70 + "k.a.npy", b"")], tarfile.GNU_FORMAT))
    raw[124:136] = b"%011o\0" % (int(raw[124:135], 8) - 3)
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\x00 " % sum(raw[:512])
    return bytes(raw)


HOSTILE = {
    "empty": b"",
    "checksum": patched(0, b"q", fix=False),
    "negative size": patched(124, b"\xff" * 12),
    "base-256 size": patched(124, b"\x80\x7f" + b"\xff" * 10),
    "octal nonsense": patched(124, b"99999999999\0"),
    "signed octal": patched(124, b"-0000000010\0"),
    "size beyond the file": patched(124, b"77777777777\0"),
    "hard link": patched(156, b"1"),
    "symbolic link": patched(156, b"2"),
    "device": patched(156, b"3"),
    "pipe": patched(156, b"6"),
    "sparse": patched(156, b"S"),
    "unknown type": patched(156, b"Z"),
    "NUL in a name": patched(0, b"k0\0x.a.npy"),
    "control character": patched(0, b"k\x1b.a.npy"),
    "not UTF-8": patched(0, b"k\xff.a.npy"),
    "absolute": patched(0, b"/etc/k.npy"),
    "leading out": patched(0, b"../k0.npy\0"),
    "backslash": patched(0, b"..\\k.a.npy"),
    "key twice": archive([("a.x", b""), ("b.x", b""), ("a.y", b"")]),
    "member twice": archive([("a.x", b"1"), ("a.x", b"2")]),
    "concatenated": archive(GOOD) + archive(GOOD),
    "truncated in a payload": archive(GOOD)[:3000],
    "truncated at a header": archive(GOOD)[:512],
    "no end of archive": archive(GOOD).rstrip(b"\0")[: 512 * 9],
    "hidden data": archive(GOOD) + b"\1",
    "much behind the end": archive(GOOD) + bytes(1 << 21),
    "PAX size beyond the file": pax([(b"size", b"99999999")]),
    "PAX size of no number": pax([(b"size", b"-1234567")]),
    "PAX sparse": pax([(b"GNU.sparse.major", b"1")]),
    "PAX twice": pax([(b"path", b"a.x.npy"), (b"path", b"b.x.npy")]),
    "PAX path leading out": pax([(b"path", b"../x.npy")]),
    "PAX path ending in NUL": pax([(b"path", b"a.x.npy\0")]),
    "long name beyond its size": shortened_long_name(),
    "long-name bomb": archive([("k" * 70_000 + ".a", b"")], tarfile.GNU_FORMAT),
    "PAX bomb": archive([("k" * 70_000 + ".a", b"")], tarfile.PAX_FORMAT),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("stream", [False, True])
def test_hostile_archives_are_errors_that_name_shard_and_offset(name, stream):
    source = io.BytesIO(HOSTILE[name]) if stream else HOSTILE[name]
    with pytest.raises(FormatError, match=r"^bad\.tar, byte [\d,]+: "):
        list(TarReader(source, name="bad.tar"))


def test_one_who_names_a_recording_is_told_what_takes_it():
    with pytest.raises(FormatError, match="not a tar.*recordings are for the commands inspect and convert"):
        list(TarReader(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8))
    damaged = bytearray(archive(GOOD))
    damaged[1024] ^= 1  # the second header
    with pytest.raises(FormatError, match=r"byte 1,024: .* not a tar$"):
        list(TarReader(bytes(damaged)))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(archive(GOOD)) - 1), st.binary(min_size=1, max_size=12))
def test_no_damage_gives_anything_but_a_format_error(at, garbage):
    raw = bytearray(archive(GOOD, tarfile.PAX_FORMAT))
    raw[at : at + len(garbage)] = garbage
    outcomes = []
    for source in (bytes(raw), io.BytesIO(bytes(raw))):
        try:
            outcomes.append([m[:6] for m in TarReader(source)])
        except FormatError:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]


def test_a_stream_is_not_read_beyond_its_limit():
    with pytest.raises(FormatError, match="bomb"):
        list(TarReader(io.BytesIO(archive([("a.x", bytes(100_000))])), limit=50_000))
