"""Maps or plain reads: decided once, when a data set is opened."""

from __future__ import annotations

from typing import Literal, TypeAlias

from neurofm_shards._typing import Ints
from neurofm_shards.errors import ConfigError
from neurofm_shards.reading.address_range import most_maps
from neurofm_shards.reading.address_space import MappedSpace, Space
from neurofm_shards.shards.file_space import FileSpace

IO: TypeAlias = Literal["auto", "mmap", "pread"]


def make_space(name: str, tar_bytes: Ints, io: IO, cache_bytes: int) -> Space:
    """Return the space that ``io`` asks for; ``auto``: maps, unless the platform cannot hold as many.

    Raises
    ------
    ConfigError
        Maps were asked for, and are not to be had.
    """
    if io == "pread" or (io == "auto" and len(tar_bytes) > most_maps()):
        return FileSpace(name, tar_bytes, cache_bytes)
    try:
        return MappedSpace(name, tar_bytes, cache_bytes)
    except OSError as error:
        if io == "mmap":
            raise ConfigError(f"{name}: cannot reserve addresses for a map ({error}); use io='pread'") from error
        return FileSpace(name, tar_bytes, cache_bytes)
