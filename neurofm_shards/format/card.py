"""The files that describe a data set to others: README.md, for people and Hugging Face, and croissant.json.

The latter is Croissant metadata, which search engines and machine-learning platforms read; it follows the format
specification 1.0 of MLCommons (http://mlcommons.org/croissant/1.0).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import xxhash

from neurofm_shards._wording import counted, first_part
from neurofm_shards.blocks import dtype_name, shape_text
from neurofm_shards.errors import InputNotFoundError, UnsafePathError
from neurofm_shards.format.files import Folder, write_atomically
from neurofm_shards.format.manifest import ColumnEntry, Manifest, split_counts
from neurofm_shards.format.sessions import (
    MOST_ROWS,
    SessionSummary,
    said_by_sources,
    session_summaries,
    texts_of_sources,
)

_README = "README.md"
#: Tells a description that this program wrote, and replaces, from one that somebody wrote or took over.
MARK = "Written by neurofm-shards and replaced whenever the data set changes; to keep edits, remove sdPublisher."
#: Marks of our own cards, which may be replaced and deleted; other files of these names are left alone.
_MARKS = {
    _README: "<!-- written by neurofm-shards; replaced whenever the data set changes -->",
    "croissant.json": MARK,
}
CARD_NAMES = tuple(_MARKS)

#: Name for `datasets` of samples whose shards hold several splits.
_UNSPLIT = "unsplit"

_MIXED = """
Shards hold samples of several splits here, so `datasets` gets all of them under one name; `neurofm_shards` loads one
with `split="train"`.
"""

_PICKLED = """
`datasets` decodes no `pyd`, and gives such columns as bytes: `pickle.loads` of them is the array. Convert with
`--codec npy` for columns that it decodes itself.
"""

_TEXT = """---
configs:
- config_name: default
  data_files:
{data_files}
---
{mark}

# {title}

{about}
{splits}
## Columns

| column | dtype | shape of one sample | unit | codec |
|---|---|---|---|---|
{columns}

## Load it

```python
from neurofm_shards import create_webdataset_dataloader

for batch in create_webdataset_dataloader("path/to/this/folder", batch_size=32):
    ...
```

The shards are plain WebDataset tars, so other programs read them too:

```python
import glob

import webdataset

shards = sorted(glob.glob("path/to/this/folder/{pattern}"))
samples = webdataset.WebDataset(shards, shardshuffle=False){decode}
```

```python
import datasets

samples = datasets.load_dataset("path/to/this/folder", split="{split}", streaming=True)
```
{mixed}{pickled}
```bash
tar tf path/to/this/folder/{first}
```
{sessions}{problems}
## How it was made

`dataset_metadata.json` lists each shard with its checksum, the inputs with their fingerprints, all options and the
versions of the software.
"""

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


def write_cards(
    folder: Path,
    manifest: Manifest,
    names: Collection[str] = CARD_NAMES,
    *,
    durable: bool = False,
    mode: int | None = None,
) -> None:
    """Write the cards of a data set; files of their names that this program did not write are left alone."""
    for name in names:
        path = folder / name
        if not os.path.lexists(path) or is_our_card(path):
            data = card_text(manifest).encode() if name == _README else croissant_bytes(manifest)
            write_atomically(path, [data], durable=durable, mode=mode)


def our_cards(folder: Path) -> list[str]:
    """Return the names of the cards in a folder that this program wrote."""
    return [name for name in CARD_NAMES if is_our_card(folder / name)]


def card_text(manifest: Manifest) -> str:
    """Return the card of a data set."""
    sessions = session_summaries(manifest)
    claimed = claimed_splits(manifest)
    mixed = not claimed and _has_splits(manifest)
    return _TEXT.format(
        data_files="\n".join(_data_files(manifest, claimed, mixed=mixed)),
        split=next(iter(claimed), _UNSPLIT if mixed else "train"),
        mixed=_MIXED if mixed else "",
        pickled=_PICKLED if any(column.codec == "pyd" for column in manifest.columns) else "",
        mark=_MARKS[_README],
        title=f"{counted(manifest.total_samples, 'sample')} in {counted(manifest.total_shards, 'shard')}",
        about="\n".join(f"- {name}: {markdown(text)}" for name, text in _about(manifest, sessions) if text),
        splits=_splits(manifest) if claimed else "",
        columns="\n".join(map(_row, manifest.columns)),
        pattern=next(iter(_patterns(manifest)), "*.tar*"),
        first=manifest.shards[0].shard_name if manifest.shards else "shard_000000.tar",
        decode=".decode()" if all(column.codec in ("pyd", "npy", "json") for column in manifest.columns) else "",
        sessions=_sessions(sessions),
        problems=_problems(manifest),
    )


def claimed_splits(manifest: Manifest) -> dict[str, list[str]]:
    """Return the shards of each split, by a name that ``datasets`` takes; nothing where a shard holds several."""
    splits = list(dict.fromkeys(shard.split for shard in manifest.shards))
    named = {split: re.sub(r"\W", "_", split) for split in splits if split}
    if None in splits or len(set(named.values())) < len(named) or "all" in named.values():
        return {}
    return {
        name: [shard.shard_name for shard in manifest.shards if shard.split == split] for split, name in named.items()
    }


def _has_splits(manifest: Manifest) -> bool:
    said = (shard.samples[0].get("split") for shard in manifest.shards if shard.samples)
    return bool(manifest.splits) or any(said)


def _patterns(manifest: Manifest) -> list[str]:
    """Return the patterns that the names of the shards match."""
    return sorted({re.sub(r"\d+", "*", shard.shard_name) for shard in manifest.shards})


def _data_files(manifest: Manifest, claimed: Mapping[str, Sequence[str]], *, mixed: bool) -> Iterator[str]:
    """Yield the lines of the header by which ``datasets`` finds the shards."""
    patterns = _patterns(manifest)
    listed = claimed or ({_UNSPLIT: patterns} if mixed else {})
    if not listed:  # no split is claimed; `datasets` has a name of its own for that
        yield from (f'  - "{pattern}"' for pattern in patterns)
    for split, files in listed.items():
        yield from (f'  - split: "{split}"', "    path:", *(f'    - "{file}"' for file in files))


def markdown(text: object) -> str:
    """Return text that came from a file so that Markdown shows it as it is, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", first_part(str(text)))


def _about(manifest: Manifest, sessions: Sequence[SessionSummary]) -> Iterator[tuple[str, str]]:
    named = [session for session in sessions if session.name]
    subjects = {session.subject for session in named} - {""}
    splits = split_counts(manifest)
    recorded = sum(session.recorded_s or 0.0 for session in named)
    stored = sum(shard.shard_bytes for shard in manifest.shards)
    yield "size", counted(stored, "byte") + ("" if manifest.compression == "none" else f", {manifest.compression}")
    whose = counted(len(subjects), "subject") if subjects else "unknown subjects"
    yield "sessions", f"{len(named):,} of {whose}" if named else ""
    yield "recorded", f"{recorded / 3600:.2f} h" if recorded else ""
    yield "splits", ", ".join(f"{name} {count:,}" for name, count in splits.items())
    yield from ((name, f"{table.rows:,}") for name, table in manifest.tables.items())
    yield from said_by_sources(manifest).items()


def _splits(manifest: Manifest) -> str:
    """Return the sizes of splits, where each has shards of its own."""
    lines = ["", "## Splits", "", "| split | samples | shards | bytes |", "|---|---|---|---|"]
    for split in dict.fromkeys(shard.split for shard in manifest.shards):
        own = [shard for shard in manifest.shards if shard.split == split]
        samples, stored = sum(shard.num_samples for shard in own), sum(shard.shard_bytes for shard in own)
        lines.append(f"| {markdown(split or 'none')} | {samples:,} | {len(own):,} | {stored:,} |")
    return "\n".join(lines) + "\n"


def _sessions(sessions: Sequence[SessionSummary]) -> str:
    named = [session for session in sessions if session.name]
    if not named:
        return ""
    lines = ["", "## Sessions", "", "| session | subject | file | samples | seconds |", "|---|---|---|---|---|"]
    for session in named[:MOST_ROWS]:
        seconds = "" if session.recorded_s is None else f"{session.recorded_s:,.1f}"
        cells = map(markdown, (session.name, session.subject, ", ".join(session.files)))
        count = "" if session.samples is None else f"{session.samples:,}"
        lines.append(f"| {' | '.join(cells)} | {count} | {seconds} |")
    if len(named) > MOST_ROWS:
        lines += ["", f"and {len(named) - MOST_ROWS:,} more."]
    return "\n".join(lines) + "\n"


def _problems(manifest: Manifest) -> str:
    """Return the problems of the inputs, each kind once."""
    kinds: Counter[tuple[str, str]] = Counter()
    for source in manifest.sources:
        found = [problem for problem in source.get("problems") or () if problem.get("severity") != "info"]
        of_input = [(str(problem.get("what")), str(problem.get("consequence"))) for problem in found]
        kinds.update(list(dict.fromkeys(of_input)))
    lines = [
        f"- {markdown(what)} ({counted(count, 'input')}): {markdown(then)}"
        for (what, then), count in kinds.most_common(MOST_ROWS)
    ]
    if manifest.failures:
        lines.append(f"- {counted(len(manifest.failures), 'input')} could not be converted; the manifest says why")
    return "\n".join(["", "## What was odd about the inputs", "", *lines]) + "\n" if lines else ""


def is_our_card(path: Path) -> bool:
    """Return whether a file, and no link to one, is a card that this program wrote."""
    try:
        with Folder.open(path.parent) as folder, os.fdopen(folder.open_file(path.name), "rb") as file:
            return _MARKS[path.name].encode() in file.read(1 << 16)
    except (InputNotFoundError, UnsafePathError):
        return False


def _row(column: ColumnEntry) -> str:
    shape = "" if column.shape is None else f"({shape_text(column.shape, ', ')})"
    unit = markdown(column.unit or "")
    return f"| {markdown(column.name)} | {dtype_name(column.dtype)} | {shape} | {unit} | {markdown(column.codec)} |"


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
        "@context": deepcopy(_CONTEXT),  # the caller's to change: tools that check it do
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
