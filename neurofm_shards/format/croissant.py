"""Croissant metadata of a data set: a description that search engines and machine-learning platforms read.

Follows the format specification 1.0 of MLCommons (http://mlcommons.org/croissant/1.0).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
import xxhash

from neurofm_shards._wording import counted
from neurofm_shards.blocks import dtype_name, shape_text
from neurofm_shards.format.manifest import ColumnEntry, Manifest
from neurofm_shards.format.sessions import texts_of_sources

#: Tells a description that this program wrote, and replaces, from one that somebody wrote or took over.
MARK = "Written by neurofm-shards and replaced whenever the data set changes; to keep edits, remove sdPublisher."

#: The context of the specification, with the terms that are used here.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(manifest: Manifest, name: str, *, url: str = "", description: str = "") -> dict[str, Any]:
    """Return the Croissant description of a data set, as JSON values.

    Parameters
    ----------
    manifest : Manifest
        The data set.
    name : str
        What the data set is called.
    url : str
        Where it is published, if it is.
    description : str
        What it is; a sentence with its numbers by default.

    Returns
    -------
    dict
        One file set for all shards, whose checksums are in the manifest, and one record set with a field for each
        column.
    """
    count = f"{counted(manifest.total_samples, 'sample')} in {counted(manifest.total_shards, 'WebDataset shard')}"
    found: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "sdPublisher": {"@type": "sc:Organization", "name": "neurofm-shards", "description": MARK},
        "name": name,
        "description": description or f"{count}, with the columns {', '.join(manifest.modalities)}.",
        "version": "1.0.0",
        "distribution": [_shards(manifest)],
        "recordSet": [_samples(manifest)],
    }
    said = {
        "license": "; ".join(texts_of_sources(manifest, "license")),
        "citeAs": "; ".join(texts_of_sources(manifest, "related_publications")),
        "creator": [{"@type": "sc:Person", "name": name} for name in texts_of_sources(manifest, "experimenter")],
        "keywords": texts_of_sources(manifest, "keywords"),
        "url": url,
    }
    return found | {term: value for term, value in said.items() if value}


def croissant_bytes(manifest: Manifest) -> bytes:
    """Return ``croissant.json``: the same for the same data set, in whichever folder it lies.

    The name ends in a digest of the shards' checksums, because a manifest has no name, and a folder has many.
    """
    digest = xxhash.xxh3_64_hexdigest("".join(shard.checksum for shard in manifest.shards).encode())
    described = croissant(manifest, f"neurofm-shards-{digest}")
    return orjson.dumps(described, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _shards(manifest: Manifest) -> dict[str, Any]:
    patterns = sorted({re.sub(r"\d+", "*", shard.shard_name) for shard in manifest.shards})
    return {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": "WebDataset tars: the files of one sample share a name before the first dot.",
        "encodingFormat": "application/x-tar",
        "includes": patterns,
    }


def _samples(manifest: Manifest) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": f"One record for each sample: {manifest.total_samples:,} in all.",
        "field": [_field(column) for column in manifest.columns],
    }


def _field(column: ColumnEntry) -> Mapping[str, Any]:
    shape = "" if column.shape is None else f" of shape ({shape_text(column.shape, ', ')})"
    unit = f", in {column.unit}" if column.unit else ""
    return {
        "@type": "cr:Field",
        "@id": f"samples/{column.name}",
        "name": column.name,
        "description": f"{dtype_name(column.dtype)}{shape}{unit}; files ending in .{column.name}.{column.extension}.",
        "dataType": _data_type(column),
        "source": {"fileSet": {"@id": "shards"}, "extract": {"fileProperty": "content"}},
    }


def _data_type(column: ColumnEntry) -> str:
    kind = "" if column.dtype is None else dtype_name(column.dtype)
    if kind.startswith(("int", "uint")):
        return "sc:Integer"
    if kind.startswith("float"):
        return "sc:Float"
    return "sc:Boolean" if kind == "bool" else "sc:Text"
