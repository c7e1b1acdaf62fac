"""How large, deep and many things in a data set may be: one table, for those who write and for those who read.

Whatever a writer lets pass can be read again, also when every index is lost; whatever lies beyond is an error on both
sides.
"""

from __future__ import annotations

#: Deepest nesting of lists and dicts in JSON, the object of a sample's metadata included.
MAX_JSON_DEPTH = 100
#: Bytes of one sample's metadata.
MAX_METADATA_BYTES = 1 << 24
#: Axes of an array: as many as NumPy 1.x can hold.
MAX_AXES = 32
#: Bytes of one array, empty axes counted as one: more than that no memory holds, and NumPy cannot count.
MAX_ARRAY_BYTES = 1 << 46
#: Bytes of one member of a tar: what eleven octal digits can say.
MAX_MEMBER_BYTES = 8**11 - 1
#: Characters of a shard's file name, which leaves room for the endings of its sidecars and temporary names.
MAX_SHARD_NAME = 200
#: Bytes of a manifest; one of a million shards has about half of this.
MAX_MANIFEST_BYTES = 1 << 30
#: A compressed shard may always decode to this much, and beyond that to so many times its size.
MAX_UNKNOWN_BYTES = 1 << 30
MAX_EXPANSION = 1100


def most_decoded(size: int) -> int:
    """Return the most bytes that a compressed shard of this size may decode to."""
    return max(MAX_UNKNOWN_BYTES, MAX_EXPANSION * size)


def is_too_deep(text: bytes) -> bool:
    """Return whether JSON is nested deeper than ``MAX_JSON_DEPTH``, before anything recurses into it."""
    if text.count(b"[") + text.count(b"{") <= MAX_JSON_DEPTH:
        return False
    depth, inside, escaped = 0, False, False
    for byte in text:
        if inside:
            inside, escaped = escaped or byte != 0x22, byte == 0x5C and not escaped
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False
