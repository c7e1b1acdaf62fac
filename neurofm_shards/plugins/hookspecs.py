"""The hooks: registration hooks return one entry or several; observer hooks hear what happened and never stop a run.

None is called per sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import pluggy

from neurofm_shards.plugins.entries import (
    CodecEntry,
    CommandEntry,
    CompressionEntry,
    Entry,
    ExecutorEntry,
    SourceEntry,
    TransformEntry,
)

PROJECT = "neurofm_shards"
#: Entry-point group; the version is part of the name, so that a later incompatible API is another group.
ENTRY_POINT_GROUP = "neurofm_shards.v1"

E = TypeVar("E", bound=Entry)
OneOrMore: TypeAlias = E | Sequence[E]

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def neurofm_register_sources() -> OneOrMore[SourceEntry]:
    """Return entries for the input formats this plugin reads. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_register_codecs() -> OneOrMore[CodecEntry]:
    """Return entries for the field codecs this plugin provides. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_register_compressions() -> OneOrMore[CompressionEntry]:
    """Return entries for the shard compressions this plugin provides. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_register_transforms() -> OneOrMore[TransformEntry]:
    """Return entries for the sample transforms this plugin provides. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_register_executors() -> OneOrMore[ExecutorEntry]:
    """Return entries for the executors that conversion can run on. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_register_commands() -> OneOrMore[CommandEntry]:
    """Return entries for commands of ``neurofm-shards``. Called once, when plugins are discovered."""
    raise AssertionError("hook specifications are never called")


@hookspec
def neurofm_conversion_started(plan: Mapping[str, Any]) -> None:
    """Hear that a conversion starts. ``plan`` is a dict: see :class:`neurofm_shards.events.ConversionStarted`."""


@hookspec
def neurofm_shard_committed(shard: Mapping[str, Any]) -> None:
    """Hear that a shard is complete on disk. ``shard`` is its entry in the manifest."""


@hookspec
def neurofm_conversion_finished(summary: Mapping[str, Any]) -> None:
    """Hear that the manifest is written. ``summary`` is what ``finalize()`` returns."""
