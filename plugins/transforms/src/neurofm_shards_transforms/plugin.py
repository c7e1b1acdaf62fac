"""What this distribution registers; imports none of the transforms."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import TransformEntry
from neurofm_shards.plugins.hookspecs import hookimpl

_HOMES = {
    "zscore": ("zscore", "ZScore", "z-score of each channel, from given numbers or the data set's statistics"),
    "cast": ("values", "Cast", "change the dtype of fields"),
    "clip": ("values", "Clip", "limit values to a range"),
    "sqrt": ("values", "Sqrt", "square root, which evens out the variance of counts"),
    "channel-mask": ("values", "ChannelMask", "set channels to a value, or remove them"),
    "select": ("fields", "Select", "keep the named fields only"),
    "rename": ("fields", "Rename", "rename fields"),
    "crop": ("time", "Crop", "keep a range of time bins"),
    "smooth": ("time", "Smooth", "smooth along time with a Gaussian kernel"),
}


@hookimpl
def neurofm_register_transforms() -> Sequence[TransformEntry]:
    """Describe the transforms."""
    return [
        TransformEntry(
            name=name,
            summary=summary,
            factory=f"neurofm_shards_transforms.{module}:{attribute}",
            config=f"neurofm_shards_transforms.{module}:{attribute}Config",
        )
        for name, (module, attribute, summary) in _HOMES.items()
    ]
