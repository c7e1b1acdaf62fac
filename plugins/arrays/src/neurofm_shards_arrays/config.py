"""Options of the source ``arrays``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from neurofm_shards.plugins.interfaces import PluginConfig


class ArraysConfig(PluginConfig):
    """Options of :class:`~neurofm_shards_arrays.source.ArraysSource`."""

    kind: Literal["arrays"] = "arrays"
    columns: tuple[str, ...] | None = Field(
        None, description="file names without .npy to take, in this order; all of them by default"
    )
    session_id: str | None = Field(None, description="session id of the input; default: folder or file name")
    subject_id: str = Field("", description="subject id written to every sample's metadata")
