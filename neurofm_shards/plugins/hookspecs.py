"""The hooks. Registration hooks return entries; observer hooks are told what happened and can never stop a run.

None is called per sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from neurofm_shards.plugins.entries import (
    CodecEntry,
    CompressionEntry,
    ExecutorEntry,
    SourceEntry,
    TransformEntry,
)

PROJECT = "neurofm_shards"
#: Entry-point group; the version is part of the name, so that a later incompatible API is another group.
ENTRY_POINT_GROUP = "neurofm_shards.v1"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def neurofm_register_sources() -> Sequence[SourceEntry]:
    """Return entries for the input formats this plugin reads. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_register_codecs() -> Sequence[CodecEntry]:
    """Return entries for the field codecs this plugin provides. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_register_compressions() -> Sequence[CompressionEntry]:
    """Return entries for the shard compressions this plugin provides. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_register_transforms() -> Sequence[TransformEntry]:
    """Return entries for the sample transforms this plugin provides. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_register_executors() -> Sequence[ExecutorEntry]:
    """Return entries for the executors that conversion can run on. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_conversion_started(plan: Mapping[str, Any]) -> None:
    """Hear that a conversion starts. ``plan`` has total_samples, total_shards, inputs and the resolved config."""


@hookspec
def neurofm_shard_committed(shard: Mapping[str, Any]) -> None:
    """Hear that a shard is complete on disk. ``shard`` is its entry in the manifest."""


@hookspec
def neurofm_conversion_finished(summary: Mapping[str, Any]) -> None:
    """Hear that the manifest is written. ``summary`` is what ``finalize()`` returns."""
