"""Which modality a series belongs to: its neurodata type first, then the container, the name and the rate."""

from __future__ import annotations

import re

from neurofm_shards_nwb.content import Series

#: Above this rate an electrical series is wide-band, wherever it lies: LFP is stored at 0.5 to 2.5 kHz.
WIDE_BAND_HZ = 5000.0
BEHAVIOR_CONTAINERS = (
    "Position",
    "CompassDirection",
    "EyeTracking",
    "PupilTracking",
    "BehavioralTimeSeries",
    "BehavioralEvents",
)
_BEHAVIOR_MODULE = re.compile(r"behaviou?r", re.IGNORECASE)


#: Neurodata type to modality; the first that a series is decides.
_BY_TYPE = (
    ("ImageSeries", "image"),
    ("IndexSeries", "image"),
    ("PatchClampSeries", "raw"),
    ("SpikeEventSeries", "raw"),
    ("RoiResponseSeries", "ophys"),
    ("IntervalSeries", "intervals"),
    ("AnnotationSeries", "events"),
)


def modality_of(series: Series) -> str:
    """Return the modality of a series, ``"image"`` for what is not converted, ``"other"`` for what is unknown."""
    if series.external:
        return "image"
    for kind, modality in _BY_TYPE:
        if kind in series.types:
            return modality
    if "ElectricalSeries" in series.types:
        return "lfp" if is_lfp(series) else "raw"
    return _general(series)


def is_lfp(series: Series) -> bool:
    """Say whether an electrical series is a local field potential; wide-band data are not, whatever their container.

    A series within LFP, or in FilteredEphys or anywhere else without ``AP`` in its name, counts when its rate is at
    most 5 kHz. Without a rate (time stamps only) the container or the name has to say so.
    """
    name = series.path.rpartition("/")[2]
    if series.rate is not None and series.rate > WIDE_BAND_HZ:
        return False
    if _within(series, ("LFP",)) or _says(name, "LFP?|lfp"):
        return True
    if _says(name, "AP|raw|Raw|spikes?|muae?"):
        return False
    return series.rate is not None or _within(series, ("FilteredEphys",))


def _general(series: Series) -> str:
    place = series.path.partition("/")[0]
    if place == "stimulus":
        return "stimulus"
    if "SpatialSeries" in series.types or _within(series, BEHAVIOR_CONTAINERS):
        return "behavior"
    if series.rate is not None and series.rate > WIDE_BAND_HZ:
        return "raw"
    if series.types[0] != "TimeSeries":
        return "other"
    in_module = any(_BEHAVIOR_MODULE.search(name) for name, _ in series.containers)
    return "behavior" if in_module or place == "acquisition" else "other"


def _within(series: Series, kinds: tuple[str, ...]) -> bool:
    return any(kind in kinds for _, kind in series.containers)


def _says(name: str, words: str) -> bool:
    """Say whether a name contains a word, as its own or in camel case (``ElectricalSeriesAP``, ``probe_lfp``)."""
    return re.search(rf"(?:^|[^A-Za-z]|(?<=[a-z]))(?:{words})(?![a-z])", name) is not None
