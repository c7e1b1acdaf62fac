"""Reading and writing the manifest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from neurofm_shards.errors import FormatError, InputNotFoundError
from neurofm_shards.format.files import open_regular, write_atomically
from neurofm_shards.format.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    SIDECAR_DIR,
    ColumnEntry,
    Manifest,
    ShardEntry,
    TableEntry,
    plain_file_name,
)

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "SIDECAR_DIR",
    "ColumnEntry",
    "Manifest",
    "ShardEntry",
    "TableEntry",
    "manifest_bytes",
    "parse_manifest",
    "plain_file_name",
    "read_manifest",
    "write_manifest",
]

#: A manifest of a million shards has about half of this.
MAX_MANIFEST_BYTES = 1 << 30
_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the one text that stands for a manifest."""
    return orjson.dumps(manifest.model_dump(), option=_OPTIONS)


def write_manifest(folder: Path | str, manifest: Manifest, *, durable: bool = False) -> None:
    """Write a folder's manifest, atomically."""
    write_atomically(Path(folder) / MANIFEST_NAME, [manifest_bytes(manifest)], durable=durable)


def read_manifest(folder: Path | str) -> Manifest | None:
    """Return the manifest of a folder, None where there is none.

    Raises
    ------
    FormatError
        It is damaged, hostile, or of another version; the message says what is wrong with it.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except InputNotFoundError:
        return None
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError(
            f"{MANIFEST_NAME} has more than {MAX_MANIFEST_BYTES:,} bytes, which no data set of ours needs"
        )
    return parse_manifest(data)


def parse_manifest(data: bytes) -> Manifest:
    """Check a manifest's bytes, which may come from anyone.

    Raises
    ------
    FormatError
        They are not a manifest of a version this program knows.
    """
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"{MANIFEST_NAME} is not JSON ({error}); `neurofm-shards repair` makes a new one") from error
    if not isinstance(values, dict) or "format_version" not in values:
        raise FormatError(f"{MANIFEST_NAME} has no format_version: it was not written by this program")
    if values["format_version"] != FORMAT_VERSION:
        raise FormatError(
            f"{MANIFEST_NAME} has format_version {values['format_version']!r:.40}, and this program knows "
            f"{FORMAT_VERSION}: a newer version of neurofm-shards may read it"
        )
    _refuse_duplicate_keys(data, values)
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise FormatError(f"{MANIFEST_NAME} is damaged: {_explained(error)}") from error


def _refuse_duplicate_keys(data: bytes, values: dict[str, Any]) -> None:
    # orjson keeps the last of two equal keys; a text that comes out as it went in had none. Only texts that someone
    # edited by hand need the slow parser.
    try:
        if orjson.dumps(values, option=_OPTIONS) != data:
            json.loads(data, object_pairs_hook=_unique)
    except (TypeError, ValueError, RecursionError) as error:  # orjson's own error is a TypeError
        raise FormatError(f"{MANIFEST_NAME} is damaged: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key comes twice among {[key for key, _ in pairs]!r:.120}")
    return found


def _explained(error: ValidationError) -> str:
    found = [f"{'.'.join(str(part) for part in e['loc']) or 'the whole'}: {e['msg']}" for e in error.errors()[:3]]
    return "; ".join(found)
