"""Base of every plugin's configuration model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PluginConfig(BaseModel):
    """Frozen, closed configuration of one plugin.

    A subclass adds ``kind: Literal["its-name"] = "its-name"`` and its options as fields with defaults and
    ``Field(description=...)``: command-line flags, ``neurofm-shards schema`` and the reference page are made from them.

    Examples
    --------
    >>> from typing import Literal
    >>> from pydantic import Field
    >>> class ClipConfig(PluginConfig):
    ...     kind: Literal["clip"] = "clip"
    ...     limit: float = Field(5.0, gt=0, description="largest absolute value that is kept")
    >>> ClipConfig(limit=3).limit
    3.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
