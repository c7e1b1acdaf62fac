"""Finding streams: by modality, then by path; more than one match is an error that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from neurofm_shards.errors import ConfigError, SourceError
from neurofm_shards.recordings.streams import AnyStream, EventStream, IntervalStream, RegularStream

S = TypeVar("S", bound=AnyStream)


def describe(stream: AnyStream) -> str:
    """Return a stream's path with what tells it from others: shape and rate, or numbers of units or rows."""
    if isinstance(stream, EventStream):
        return f"{stream.path} ({len(stream.owners)} ids)"
    if isinstance(stream, IntervalStream):
        return f"{stream.path} ({len(stream)} intervals)"
    rate = f"{stream.rate:g} Hz" if isinstance(stream, RegularStream) else "time stamps"
    return f"{stream.path} (shape {stream.shape}, {rate}, {stream.modality})"


def listing(streams: Iterable[AnyStream]) -> str:
    """Return the descriptions of streams, comma-separated, or ``none``."""
    return ", ".join(describe(stream) for stream in streams) or "none"


def by_path(streams: Sequence[S], path: str, option: str) -> S:
    """Return the stream of this path, or the only one whose path ends in it.

    Raises
    ------
    SourceError
        No stream matches, or several do; the message lists those present.
    """
    found = [stream for stream in streams if stream.path == path]
    found = found or [stream for stream in streams if ("/" + stream.path).endswith("/" + path.strip("/"))]
    if len(found) == 1:
        return found[0]
    what = "matches nothing" if not found else f"matches {len(found)} series"
    raise SourceError(f"{option}={path!r} {what}; present: {listing(found or streams)}. Give one of these paths.")


def only(streams: Sequence[S], option: str, what: str) -> S:
    """Return the one stream there is; several are an error that says which option chooses.

    Raises
    ------
    SourceError
        There is more than one.
    """
    if len(streams) == 1:
        return streams[0]
    raise SourceError(f"{len(streams)} {what}: {listing(streams)}. Choose one with {option}.")


def pick(names: Sequence[str], wanted: Sequence[str] | None, where: str) -> list[int]:
    """Return the positions of the wanted names, in the order wanted; all of them for None.

    Raises
    ------
    ConfigError
        A name is not there; the message lists those that are.
    """
    if wanted is None:
        return list(range(len(names)))
    place = {name: i for i, name in enumerate(names)}
    if absent := [name for name in wanted if name not in place]:
        raise ConfigError(f"{where} has no {', '.join(map(repr, absent))}; present: {', '.join(names) or 'none'}")
    return [place[name] for name in wanted]
