"""Find the codecs and compressions of a data set; where one is missing, say who wrote it and how to get it.

A data set names distributions, and nobody ever imports or installs anything because of that: messages repeat the name
(of plain letters only), and what to do about it is for the reader to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from neurofm_shards.errors import MissingPluginError
from neurofm_shards.plugins.interfaces import Compression
from neurofm_shards.plugins.registry import IN_CODE, install_hint, install_hint_for_file, registry

if TYPE_CHECKING:
    from neurofm_shards.plugins.interfaces import Codec


def find_compression(shard_name: str, name: str = "", distribution: str = "") -> Compression | None:
    """Return the compression of a shard of this name; None for a plain tar.

    Parameters
    ----------
    shard_name : str
        File name.
    name, distribution : str
        What the manifest calls the compression, and who provides it; for the message.

    Raises
    ------
    MissingPluginError
        No installed plugin reads it.
    """
    suffix = compression_suffix(shard_name)
    if not suffix:
        return None
    found = registry().compressions.by_suffix(shard_name)
    if found is None:
        raise MissingPluginError(f"{shard_name}: {missing_compression(suffix, name, distribution)}")
    return cast("Compression", registry().compressions.instance(found.qualified_name))


def compression_suffix(shard_name: str) -> str:
    """Return the part of a file name after ``.tar``."""
    return shard_name.rpartition(".tar")[2] if ".tar" in shard_name else ""


def missing_compression(suffix: str, name: str = "", distribution: str = "") -> str:
    """Return the message that nothing decompresses shards of this suffix, with how to get what does."""
    if name in ("", "none"):
        hint = install_hint_for_file(f".tar{suffix}")
        how = f"install one with: {hint}" if hint else "see `neurofm-shards plugins list` for those that are installed"
        return f"no installed plugin decompresses {suffix}; {how}"
    how = _how_to_get("compression", name, distribution)
    return f"the compression {name!r} is not installed{how}"


def find_codec(codec: str, column: str, distribution: str = "") -> Codec | None:
    """Return the codec of a column; None for foreign payloads that are handed out as bytes.

    Parameters
    ----------
    codec : str
        Name, as the shard's index or the manifest says; empty where nothing says it.
    column : str
        Which field, for the message.
    distribution : str
        Who provides the codec, as the manifest says.

    Raises
    ------
    MissingPluginError
        The codec that wrote the column is not installed.
    """
    if not codec:
        return None
    missing = missing_codec(codec, column, distribution)
    if missing:
        raise MissingPluginError(missing)
    return codec_named(codec)


def missing_codec(codec: str, column: str, distribution: str = "") -> str:
    """Return the message that a column's codec is not installed, with how to get it; empty when it is."""
    if not codec or codec in registry().codecs.names():
        return ""
    return f"column {column!r}: its codec {codec!r} is not installed{_how_to_get('codec', codec, distribution)}"


def codec_named(name: str) -> Codec:
    """Return the codec of a name; MissingPluginError where there is none."""
    return cast("Codec", registry().codecs.instance(name))


def codec_by_extension(extension: str) -> Codec | None:
    """Return the codec that reads members of this extension; None where no codec does."""
    found = registry().codecs.by_extension(extension)
    return None if found is None else codec_named(found.qualified_name)


def compression_distribution(name: str) -> str:
    """Return which distribution provides a compression; nothing for plain tar and for what is not installed."""
    providers = {item.distribution for item in registry().compressions.entries() if item.entry.name == name}
    return providers.pop() if len(providers) == 1 else ""


def _how_to_get(kind: str, name: str, distribution: str) -> str:
    hint = install_hint(kind, name)
    if hint:
        return f"; install it with: {hint}"
    if distribution in ("", IN_CODE):
        return "; the program that wrote the data set registered it: do the same before reading"
    return (
        f"; the distribution {distribution!r} wrote this data set and has it. If you trust that, install it "
        f"(pip install {distribution}); it runs code of its own"
    )


def compression_object(compression: str | Mapping[str, Any] | Compression) -> Compression | None:
    """Return the compression that a name, configuration or object stands for; None for ``"none"``."""
    if compression == "none":
        return None
    if isinstance(compression, Compression):
        return compression
    made: Compression = registry().compressions.make(
        dict(compression) if isinstance(compression, Mapping) else compression
    )
    return made
