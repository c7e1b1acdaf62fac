"""The data set's README: for people, and (its YAML header) for ``datasets.load_dataset(folder)``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from neurofm_shards.errors import InputNotFoundError, UnsafePathError
from neurofm_shards.format.files import Folder, write_atomically
from neurofm_shards.format.manifest import ColumnEntry, Manifest

CARD_NAME = "README.md"
#: Tells a card of ours, which may be replaced and deleted, from somebody's own README.
_MARK = "<!-- written by neurofm-shards; replaced whenever the data set changes -->"

_TEXT = """---
configs:
- config_name: default
  data_files:
  - split: train
    path:
{patterns}
---
{mark}

# {samples:,} samples in {shards:,} shards

| column | dtype | shape of one sample | unit | codec |
|---|---|---|---|---|
{columns}

```python
from neurofm_shards import create_webdataset_dataloader

for batch in create_webdataset_dataloader("path/to/this/folder", batch_size=32):
    ...
```

`dataset_metadata.json` says what is in each shard, where the samples come from and how they were made. The shards are
plain WebDataset tars: `tar`, `webdataset` and `datasets` read them too.
"""


def write_card(folder: Path, manifest: Manifest, *, durable: bool = False, mode: int | None = None) -> None:
    """Write the card; somebody's own README is left alone."""
    path = folder / CARD_NAME
    if os.path.lexists(path) and not is_our_card(path):
        return
    patterns = sorted({re.sub(r"\d+", "*", shard.shard_name) for shard in manifest.shards})
    text = _TEXT.format(
        patterns="\n".join(f'    - "{pattern}"' for pattern in patterns),
        mark=_MARK,
        samples=manifest.total_samples,
        shards=manifest.total_shards,
        columns="\n".join(map(_row, manifest.columns)),
    )
    write_atomically(path, [text.encode()], durable=durable, mode=mode)


def is_our_card(path: Path) -> bool:
    """Return whether a file, and no link to one, is a card that this program wrote."""
    try:
        with Folder.open(path.parent) as folder, os.fdopen(folder.open_file(path.name), "rb") as file:
            return _MARK.encode() in file.read(1 << 16)
    except (InputNotFoundError, UnsafePathError):
        return False


def _row(column: ColumnEntry) -> str:
    shape = "" if column.shape is None else "(" + ", ".join("?" if n is None else str(n) for n in column.shape) + ")"
    return f"| {column.name} | {column.dtype or 'JSON'} | {shape} | {column.unit or ''} | {column.codec} |"
