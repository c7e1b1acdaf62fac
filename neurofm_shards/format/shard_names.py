"""File names of shards: which ones are plain, what they are by default, and how they count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from neurofm_shards.errors import ConfigError
from neurofm_shards.limits import MAX_SHARD_NAME

#: How writers name shards.
DEFAULT_SHARD_NAMES = "shard_{shard_idx:06d}.tar"
#: Which files readers take where no manifest lists them.
DEFAULT_SHARD_PATTERN = "shard_*.tar*"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\.tar(\.[A-Za-z0-9]+)?")
#: The number may be padded; a width of a billion, or an attribute, is nothing that a name needs.
_PATTERN = re.compile(r"([^{}]|\{shard_idx(:0?\d{1,2}d?)?\})*")


def shard_file_name(name: str) -> str:
    """Return the name when it is that of a shard in the data set's own folder; ValueError otherwise."""
    if not is_shard_name(name):
        raise ValueError(
            f"{name!r:.100} is not the plain file name of a shard, which ends in .tar, or .tar and a suffix"
        )
    return name


def is_shard_name(name: str) -> bool:
    """Return whether a shard may have this file name."""
    return _PLAIN_NAME.fullmatch(name) is not None and _SHARD_NAME.fullmatch(name) is not None


class ShardNames:
    """Names of shards by number.

    Parameters
    ----------
    pattern : str
        With ``{shard_idx}``, ending in ``.tar``; the compression's suffix is added.
    suffix : str
        Of the compression, with its dot; empty for plain tar.
    """

    def __init__(self, pattern: str, suffix: str) -> None:
        if not _PATTERN.fullmatch(pattern):
            raise ConfigError(
                f"shard_name_pattern {pattern!r:.120} gives no plain file name: its one field is {{shard_idx}}, with a "
                "width of at most two digits, as in '{shard_idx:06d}'"
            )
        self._pattern = pattern if suffix and pattern.endswith(f".tar{suffix}") else pattern + suffix
        try:
            first, second = self.name(0), self.name(1)
        except ValueError as error:
            raise ConfigError(f"shard_name_pattern {pattern!r} gives no plain file name: {error}") from error
        if first == second:
            raise ConfigError(f"shard_name_pattern {pattern!r} gives all shards one name: it needs '{{shard_idx:06d}}'")
        if not first.endswith(f".tar{suffix}"):
            raise ConfigError(
                f"shard_name_pattern {pattern!r} must end in '.tar{suffix}' for the readers to find shards"
            )
        if not is_shard_name(first) or len(first) > MAX_SHARD_NAME:
            raise ConfigError(
                f"shard_name_pattern {pattern!r} gives no plain file name of at most {MAX_SHARD_NAME} characters"
            )
        self._glob = re.sub(r"\d+", "*", first)

    def name(self, shard_idx: int) -> str:
        """Return one shard's file name."""
        return self._pattern.format(shard_idx=shard_idx)

    def found(self, folder: Path) -> Iterator[Path]:
        """Yield files that have such names."""
        yield from sorted(folder.glob(self._glob))
