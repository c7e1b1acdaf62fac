"""Digests of what the program makes, with what depends on installed libraries put aside."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict

_SOFTWARE = re.compile(rb'"software": \{[^}]*\}')
_LONG_FLOAT = re.compile(rb"-?\d+\.\d{10,}(?:e[+-]?\d+)?")


def digest(data):
    """Return 16 hexadecimal digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def digest_of_json(value):
    """Return the digest of a JSON value; key order counts."""
    return digest(json.dumps(value, separators=(",", ":")).encode())


def normalized(manifest):
    """Return a manifest's bytes without versions of software, and with floats to 12 significant digits.

    The versions change with every release; the last digits of a mean change with the width of a processor's vectors.
    """
    plain = _SOFTWARE.sub(b'"software": {}', manifest)
    return _LONG_FLOAT.sub(lambda found: b"%.12g" % float(found[0]), plain)


def _kind(path):
    if path.name == "dataset_metadata.json":
        return "manifest"
    if path.name == "README.md":
        return "card"
    if path.name == "croissant.json":
        return "croissant"
    if path.parent.name == "tables":
        return f"table {path.stem}"
    return {".idx": "indexes", ".meta": "metadata tables"}.get(path.suffix, path.name if _is_hidden(path) else "shards")


def _is_hidden(path):
    return ".neurofm" in path.parts


def digests_of_folder(folder):
    """Return the number of files of each kind in a data set, and the digest of their names and bytes."""
    kinds = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            kinds[_kind(path)].append((path.name, normalized(data) if _kind(path) == "manifest" else data))
    return {
        f"{kind} ({len(files)})" if kind in {"shards", "indexes", "metadata tables"} else kind: digest(
            b"".join(b"%s\0%d\0%s" % (name.encode(), len(data), data) for name, data in files)
        )
        for kind, files in sorted(kinds.items())
    }
