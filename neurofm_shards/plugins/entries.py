"""Entries: the small frozen descriptions that plugins hand to the registry.

``config`` and ``factory`` may be ``"package.module:attribute"`` strings; they are imported when someone asks for the
plugin by name, so listing plugins runs none of their code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

ConfigRef = str | type | None
FactoryRef = str | Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What all kinds of entries have.

    Attributes
    ----------
    name : str
        ``[a-z][a-z0-9_-]*``; what users write.
    summary : str
        One line for ``plugins list``.
    factory : callable or str
        Called with the validated config (or with nothing when ``config`` is None); returns the plugin's object.
    config : type of PluginConfig, str or None
        The configuration model, or where to import it from.
    """

    name: str
    summary: str
    factory: FactoryRef
    config: ConfigRef = None


@dataclass(frozen=True, kw_only=True)
class SourceEntry(Entry):
    """Describes a :class:`~neurofm_shards.plugins.interfaces.Source`.

    Attributes
    ----------
    suffixes : tuple of str
        File name endings in lower case, with the dot.
    magic : tuple of (int, bytes)
        ``(offset, bytes)`` pairs, any of which marks a file as this format; decides when suffixes do not.
    folders : bool
        Whether a folder (not its files one by one) can be one input.
    joins_files : bool
        Where folders can be inputs: whether files with one of the suffixes make the folder that they lie in one input
        (arrays of one data set), or are an input each (recordings, of which a store is a folder).
    """

    suffixes: tuple[str, ...] = ()
    magic: tuple[tuple[int, bytes], ...] = ()
    folders: bool = False
    joins_files: bool = True


@dataclass(frozen=True, kw_only=True)
class CodecEntry(Entry):
    """Describes a :class:`~neurofm_shards.plugins.interfaces.Codec`.

    Attributes
    ----------
    extension : str
        Member name ending without the dot; readers find the codec by it.
    version : int
        The codec's format version, recorded in the manifest.
    """

    extension: str
    version: int = 1


@dataclass(frozen=True, kw_only=True)
class CompressionEntry(Entry):
    """Describes a :class:`~neurofm_shards.plugins.interfaces.Compression`.

    Attributes
    ----------
    suffix : str
        File suffix with its dot, behind ``.tar``.
    magic : bytes
        First bytes of such a file.
    """

    suffix: str
    magic: bytes = b""


@dataclass(frozen=True, kw_only=True)
class TransformEntry(Entry):
    """Describes a :class:`~neurofm_shards.plugins.interfaces.Transform`."""


@dataclass(frozen=True, kw_only=True)
class ExecutorEntry(Entry):
    """Describes a factory of a :class:`concurrent.futures.Executor`; its config has a ``workers: int`` field."""


@dataclass(frozen=True, kw_only=True)
class CommandEntry(Entry):
    """Describes a :class:`~neurofm_shards.plugins.interfaces.Command` of ``neurofm-shards``; it has no config."""


#: Kinds of plugins, each with the class of its entries; the hook of a kind is ``neurofm_register_KINDs``.
KINDS: Mapping[str, type[Entry]] = MappingProxyType(
    {
        "source": SourceEntry,
        "codec": CodecEntry,
        "compression": CompressionEntry,
        "transform": TransformEntry,
        "executor": ExecutorEntry,
        "command": CommandEntry,
    }
)
