"""Hostile archives: what somebody could send instead of a shard."""

from __future__ import annotations

import io
import struct

import numpy as np

END = bytes(1024)


def npy(array: np.ndarray | None = None) -> bytes:
    """The bytes of a ``.npy``."""
    out = io.BytesIO()
    np.save(out, np.arange(6.0) if array is None else array)
    return out.getvalue()


def header(name: bytes = b"a.x.npy", size: bytes | int = 0, kind: bytes = b"0", **other: bytes) -> bytes:
    """A header of any fields, with a right checksum unless one is given."""
    digits = size if isinstance(size, bytes) else b"%011o\0" % size
    raw = bytearray(512)
    raw[: len(name)] = name
    for offset, text in ((100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (136, b"00000000000\0")):
        raw[offset : offset + len(text)] = text
    raw[124:136] = digits.ljust(12, b"\0")[:12]
    raw[156:157] = kind
    raw[157 : 157 + len(other.get("link", b""))] = other.get("link", b"")
    raw[257:265] = other.get("magic", b"ustar\x0000")
    raw[345 : 345 + len(other.get("prefix", b""))] = other.get("prefix", b"")
    raw[148:156] = b" " * 8
    raw[148:156] = other.get("checksum", b"%06o\0 " % sum(raw))
    return bytes(raw)


def member(name: bytes = b"a.x.npy", payload: bytes | None = None, **other: bytes) -> bytes:
    """A header and its payload."""
    payload = npy() if payload is None else payload
    return header(name, len(payload), **other) + payload + bytes(-len(payload) % 512)


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A PAX header."""
    lines = b""
    for key, value in records.items():
        line = b" " + key + b"=" + value + b"\n"
        length = len(line)
        while len(str(length)) + len(line) != length:
            length = len(str(length)) + len(line)
        lines += b"%d" % length + line
    return member(b"pax", lines, kind=kind)


def long_name(name: bytes) -> bytes:
    """A GNU header for a long name."""
    return member(b"././@LongLink", name + b"\0", kind=b"L")


def sound() -> bytes:
    """An archive without fault."""
    return member(b"a.x.npy") + member(b"a.metadata.json", b'{"i":1}') + member(b"b.x.npy") + END


def _names() -> dict[str, bytes]:
    names = {
        "parent": b"../a.x.npy",
        "parent inside": b"k/../../a.x.npy",
        "absolute": b"/etc/a.x.npy",
        "backslash": b"..\\a.x.npy",
        "newline": b"a\n.x.npy",
        "escape sequence": b"\x1b[2Ja.x.npy",
        "bell": b"a\x07.x.npy",
        "not UTF-8": b"\xff\xfe.x.npy",
        "empty": b"",
        "delete": b"a\x7f.x.npy",
        "bidi": "a\u202e.x.npy".encode(),
        "NUL inside": b"a.x.npy\0/../b",
    }
    found = {f"name, {label}": member(name) + END for label, name in names.items()}
    found["name, parent in the prefix"] = member(b"a.x.npy", prefix=b"../..") + END
    found["name, absolute by PAX"] = pax({b"path": b"/etc/passwd.x.npy"}) + member() + END
    found["name, parent by PAX"] = pax({b"path": b"../../a.x.npy"}) + member() + END
    found["name, NUL by PAX"] = pax({b"path": b"a\0b.x.npy"}) + member() + END
    found["name, NUL at its end by PAX"] = pax({b"path": b"a.x.npy\0"}) + member() + END
    found["name, parent by GNU"] = long_name(b"../a.x.npy") + member() + END
    text = b"long/" * 40 + b"k.x.npy"
    cut_short = header(b"././@LongLink", 150, kind=b"L") + text + bytes(-len(text) % 512)
    found["name, GNU beyond its size"] = cut_short + member() + END
    found["name, 5,000 bytes by GNU"] = long_name(b"a" * 5000 + b".x.npy") + member() + END
    found["name, 60 KB by PAX"] = pax({b"path": b"a/" * 30_000 + b"k.x.npy"}) + member() + END
    return found


def _kinds() -> dict[str, bytes]:
    kinds = {
        b"1": "hard link",
        b"2": "symbolic link",
        b"3": "device",
        b"4": "block device",
        b"6": "pipe",
        b"S": "sparse",
        b"K": "long link",
        b"V": "volume",
        b"M": "continued",
        b"D": "dump folder",
        b"Z": "unknown",
        b"\xff": "high",
    }
    found = {f"kind, {label}": header(kind=kind, link=b"/etc/passwd") + END for kind, label in kinds.items()}
    found["kind, folder with content"] = header(b"a/", 512, kind=b"5") + bytes(512) + END
    found["kind, sparse by PAX"] = pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"1" * 15}) + member() + END
    found["kind, of no known format"] = member(magic=b"newtar\x0000"[:8]) + END
    return found


def _sizes() -> dict[str, bytes]:
    sizes: dict[str, bytes | int] = {
        "beyond the file": 1 << 20,
        "largest octal": (1 << 33) - 1,
        "negative": b"-0000000001\0",
        "not octal": b"00000000999\0",
        "hexadecimal": b"0x000000200\0",
        "blank": b" " * 12,
        "NUL": bytes(12),
        "negative base 256": b"\xff" * 12,
        "huge base 256": b"\x80" + b"\x7f" + bytes(10),
        "2**63 base 256": b"\x80" + (1 << 63).to_bytes(11, "big"),
        "letters": b"sizesizesize",
        "with rubbish behind": b"0000000001\0x",
    }
    found = {f"size, {label}": header(size=size) + npy().ljust(512, b"\0") + END for label, size in sizes.items()}
    for label, size in {
        "negative": b"-5",
        "huge": b"9" * 18,
        "19 digits": b"9" * 19,
        "text": b"many",
        "empty": b"",
    }.items():
        found[f"size, {label} by PAX"] = pax({b"size": size}) + member() + END
    found["size, twice by PAX"] = pax({b"size": b"1"}) + pax({b"size": b"2"}) + member() + END
    found["size, global by PAX"] = pax({b"size": b"1"}, kind=b"g") + member() + END
    found["PAX, length 0"] = member(b"pax", b"0 path=x\n", kind=b"x") + member() + END
    found["PAX, length beyond"] = member(b"pax", b"999 path=x\n", kind=b"x") + member() + END
    found["PAX, same word twice"] = member(b"pax", b"9 path=a\n" * 2, kind=b"x") + member() + END
    found["PAX, a megabyte"] = member(b"pax", b"x" * (1 << 20), kind=b"x") + member() + END
    found["PAX, a hundred in a row"] = pax({b"comment": b"x"}) * 100 + member() + END
    found["PAX, the last thing"] = member() + pax({b"path": b"b.x.npy"}) + END
    return found


def _structure() -> dict[str, bytes]:
    whole = sound()
    found = {
        "key twice": member(b"a.x.npy") + member(b"b.x.npy") + member(b"a.y.npy") + END,
        "member twice": member() + member() + END,
        "checksum wrong": member(checksum=b"000000\0 ") + END,
        "checksum not octal": member(checksum=b"zzzzzz\0 ") + END,
        "two archives in one file": whole + whole,
        "hidden data behind the end": whole + b"secret".ljust(512, b"\0"),
        "2 MiB of zeros behind": whole + bytes(2 << 20),
        "empty file": b"",
        "one byte": b"\0",
        "half a header": whole[:256],
        "one block of zeros": bytes(512),
        "no end": whole[:-1024],
        "one end block": whole[:-512],
        "not a tar": b"#!/bin/sh\nrm -rf /\n" * 100,
        "another program's file": b"\x89HDF\r\n\x1a\n" + bytes(4096),
        "random": np.random.default_rng(0).bytes(4096),
    }
    for at in range(512, len(whole) - 1024, 512):
        found[f"cut at {at}"] = whole[:at]
        found[f"cut at {at - 1}"] = whole[: at - 1]
        if at % 1024:  # between members it would be a smaller archive without fault
            found[f"cut at {at}, with an end"] = whole[:at] + END
    return {f"structure, {label}": raw for label, raw in found.items()}


def _npy(head: bytes, body: bytes = bytes(48), version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(head))
    return b"\x93NUMPY" + version + size + head + body


def _payloads() -> dict[str, bytes]:
    heads = {
        "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (6,), }\n",
        "code": b"{'descr': __import__('os').system('touch owned'), 'shape': (6,), 'fortran_order': False}\n",
        "huge shape": b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,), }\n",
        "overflowing shape": b"{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296, 2), }\n",
        "negative shape": b"{'descr': '<f8', 'fortran_order': False, 'shape': (-6,), }\n",
        "deep": b"{'descr': " + b"(" * 5000 + b")" * 5000 + b", 'shape': (6,), 'fortran_order': False}\n",
        "digits": b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"9" * 20_000 + b",), }\n",
        "many axes": b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"1, " * 2000 + b"6), }\n",
        "structured": b"{'descr': [('a', '<f8'), ('b', '|O')], 'fortran_order': False, 'shape': (3,), }\n",
        "subarray": b"{'descr': ('<f8', (1000000, 1000000)), 'fortran_order': False, 'shape': (1,), }\n",
        "itemsize": b"{'descr': '|V9223372036854775807', 'fortran_order': False, 'shape': (1,), }\n",
    }
    found = {f"npy, {label}": _npy(head) for label, head in heads.items()}
    found["npy, header of 4 GiB"] = b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(60)
    found["npy, version 9"] = _npy(heads["objects"], version=b"\x09\x09")
    found["npy, too short"] = npy()[:-1]
    found["npy, too long"] = npy() + b"x"
    found["npy, empty"] = b""
    tars = {label: member(payload=payload) + END for label, payload in found.items()}
    texts = {
        "deep": b"[" * 100_000 + b"]" * 100_000,
        "not closed": b"[" * 100_000,
        "bad UTF-8": b'"\xff"',
        "no JSON": b"{i:1}",
        "huge number": b"9" * 5000,
        "NUL": b'{"a": 1}\0',
        "surrogate": b'"\\ud800"',
        "empty": b"",
    }
    tars |= {f"json, {label}": member(b"a.v.json", text) + END for label, text in texts.items()}
    notes = {
        "deep": b'{"a":' * 2000 + b"1" + b"}" * 2000,
        "cut": b'{"i": ',
        "17 MB": b'"' + b"x" * (17 << 20) + b'"',
        "empty": b"",
    }
    tars |= {f"metadata, {k}": member() + member(b"a.metadata.json", text) + END for k, text in notes.items()}
    return tars


#: Archives that are refused.
REFUSED: dict[str, bytes] = {**_names(), **_kinds(), **_sizes(), **_structure(), **_payloads()}


def _valid() -> dict[str, bytes]:
    found = {
        "key of 99 bytes": member(b"k" * 93 + b".x.npy") + END,
        "key that is not ASCII": member("é§字.x.npy".encode()) + END,
        "long name by PAX": pax({b"path": b"long/" * 40 + b"k.x.npy"}) + member() + END,
        "long name by GNU": long_name(b"long/" * 40 + b"k.x.npy") + member() + END,
        "size by PAX": pax({b"size": b"176"}) + header(size=0) + npy().ljust(512, b"\0") + END,
        "global PAX comment": pax({b"comment": b"x"}, kind=b"g") + member() + END,
        "no samples": END,
        "record padding": sound() + bytes(9216),
        "only folders": header(b"d/", kind=b"5") + END,
        "oldest tar": header(b"a.x.npy", len(npy()), kind=b"\0", magic=bytes(8)) + npy().ljust(512, b"\0") + END,
        "base 256 size": header(size=b"\x80" + len(npy()).to_bytes(11, "big")) + npy().ljust(512, b"\0") + END,
        "json list as metadata": member() + member(b"a.metadata.json", b"[1]") + END,
    }
    return {f"sound, {label}": raw for label, raw in found.items()}


#: Archives that are odd, but sound.
ACCEPTED: dict[str, bytes] = _valid()
