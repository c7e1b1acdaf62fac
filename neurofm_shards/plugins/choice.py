"""Which codec stores which value."""

from __future__ import annotations

from typing import cast

from neurofm_shards.errors import EncodeError, PluginError
from neurofm_shards.plugins.interfaces import Codec
from neurofm_shards.plugins.registry import registry

#: Types that always become JSON, whatever codecs are installed.
_JSON_TYPES = (bool, int, float, str, type(None), list, tuple, dict)


def codec_for(value: object, preferred: str = "pyd", *, field: str = "?") -> Codec:
    """Choose the codec for a value by its type.

    Python's own numbers, strings, booleans, None, lists and dicts are JSON; then the preferred (array) codec is asked,
    then all others.

    Raises
    ------
    EncodeError
        No codec takes the value.
    PluginError
        More than one of the others takes it.
    """
    codecs = registry().codecs
    if type(value) in _JSON_TYPES:
        return cast("Codec", codecs.instance("json"))
    favourite = cast("Codec", codecs.instance(preferred))
    if favourite.accepts(value):
        return favourite
    names = [name for name in codecs.names() if name not in (preferred, "json", "pyd", "npy")]
    takers = [codec for codec in map(codecs.instance, names) if codec.accepts(value)]
    if len(takers) > 1:
        raise PluginError(
            f"field {field!r}: codecs {[codec.name for codec in takers]} all take a {type(value).__name__}; "
            f"choose one with codecs={{{field!r}: name}}"
        )
    if not takers:
        raise EncodeError(
            f"field {field!r}: no codec takes a {type(value).__module__}.{type(value).__qualname__}; convert it to an "
            "array or to JSON values, or register a codec for it: neurofm_shards.register_codec(CodecEntry(...))"
        )
    return cast("Codec", takers[0])
