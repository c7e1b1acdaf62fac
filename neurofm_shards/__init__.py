"""Neuroscience recordings become WebDataset shards; shards become PyTorch batches.

Names are imported when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from neurofm_shards._version import __version__

if TYPE_CHECKING:
    from neurofm_shards.blocks import block_from_samples
    from neurofm_shards.convert.nwb import NWBToWebDatasetConverter
    from neurofm_shards.convert.session import convert_inputs
    from neurofm_shards.loading.dataloader import create_webdataset_dataloader
    from neurofm_shards.loading.datasets import ShardDataset
    from neurofm_shards.loading.loaders import ResumableWebDatasetLoader, WebDatasetLoader
    from neurofm_shards.loading.plans.mixing import mix
    from neurofm_shards.loading.splits import split
    from neurofm_shards.loading.subsets import save_splits
    from neurofm_shards.loading.tensors import collate_webdataset
    from neurofm_shards.plugins.hookspecs import hookimpl
    from neurofm_shards.plugins.registry import (
        register_codec,
        register_compression,
        register_executor,
        register_source,
        register_transform,
    )
    from neurofm_shards.reading.info import ShardedDatasetInfo, report
    from neurofm_shards.stored.windows import open_windows
    from neurofm_shards.writing.arrays import create_shards_from_arrays
    from neurofm_shards.writing.dataset_writer import WebDatasetWriter

_HOMES = {
    "NWBToWebDatasetConverter": "neurofm_shards.convert.nwb",
    "ResumableWebDatasetLoader": "neurofm_shards.loading.loaders",
    "ShardDataset": "neurofm_shards.loading.datasets",
    "ShardedDatasetInfo": "neurofm_shards.reading.info",
    "WebDatasetLoader": "neurofm_shards.loading.loaders",
    "WebDatasetWriter": "neurofm_shards.writing.dataset_writer",
    "block_from_samples": "neurofm_shards.blocks",
    "collate_webdataset": "neurofm_shards.loading.tensors",
    "convert_inputs": "neurofm_shards.convert.session",
    "create_shards_from_arrays": "neurofm_shards.writing.arrays",
    "create_webdataset_dataloader": "neurofm_shards.loading.dataloader",
    "hookimpl": "neurofm_shards.plugins.hookspecs",
    "mix": "neurofm_shards.loading.plans.mixing",
    "open_windows": "neurofm_shards.stored.windows",
    "register_codec": "neurofm_shards.plugins.registry",
    "register_compression": "neurofm_shards.plugins.registry",
    "register_executor": "neurofm_shards.plugins.registry",
    "register_source": "neurofm_shards.plugins.registry",
    "register_transform": "neurofm_shards.plugins.registry",
    "report": "neurofm_shards.reading.info",
    "save_splits": "neurofm_shards.loading.subsets",
    "split": "neurofm_shards.loading.splits",
}

__all__ = [
    "NWBToWebDatasetConverter",
    "ResumableWebDatasetLoader",
    "ShardDataset",
    "ShardedDatasetInfo",
    "WebDatasetLoader",
    "WebDatasetWriter",
    "__version__",
    "block_from_samples",
    "collate_webdataset",
    "convert_inputs",
    "create_shards_from_arrays",
    "create_webdataset_dataloader",
    "hookimpl",
    "mix",
    "open_windows",
    "register_codec",
    "register_compression",
    "register_executor",
    "register_source",
    "register_transform",
    "report",
    "save_splits",
    "split",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'neurofm_shards' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
