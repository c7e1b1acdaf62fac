"""Opens inputs as samples, keeps the last one open, and notices when a file changes underneath."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neurofm_shards.errors import InputChangedError, NeurofmShardsError, SourceError
from neurofm_shards.plugins.interfaces import Samples

if TYPE_CHECKING:
    from neurofm_shards.convert.inputs import Input
    from neurofm_shards.recordings.options import WindowOptions
    from neurofm_shards.types import Block, SourcePlan

Signature = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Opening:
    """How an input is opened: everything that its samples depend on.

    Attributes
    ----------
    input : Input
        Files and source.
    windows : WindowOptions
        Used when the source gives a recording.
    session_template : str
        See ``ConversionConfig.session_template``.
    """

    input: Input
    windows: WindowOptions
    session_template: str = "{session_id}"


@dataclass(frozen=True)
class Opened:
    """An open input.

    Attributes
    ----------
    samples : Samples
        What to read from.
    is_recording : bool
        Whether windows were cut from a recording.
    """

    samples: Samples
    is_recording: bool


def open_input(opening: Opening) -> Opened:
    """Open an input and window it where it is a recording.

    Raises
    ------
    SourceError
        It cannot be read; whatever the plugin raised is named.
    """
    name = opening.input.name
    try:
        opened = opening.input.source.open(opening.input.paths)
        if isinstance(opened, Samples):
            return Opened(opened, is_recording=False)
        from neurofm_shards.recordings import windowed  # noqa: PLC0415  (only recordings need windows)

        opened.session_id = session_name(opening, opened.session_id, opened.subject_id)
        return Opened(windowed(opened, opening.windows), is_recording=True)
    except NeurofmShardsError as error:
        raise _named(error, name) from error
    except Exception as error:  # a plugin may raise anything
        raise SourceError(f"{name} cannot be opened: {type(error).__name__}: {error}") from error


def _named(error: NeurofmShardsError, name: str) -> NeurofmShardsError:
    text = str(error)
    return error if os.path.basename(name) in text else type(error)(f"{name}: {text}")  # noqa: PTH119


def session_name(opening: Opening, session_id: str, subject_id: str) -> str:
    """Fill in the session template for one input."""
    first = Path(opening.input.paths[0]).resolve()
    return opening.session_template.format(
        session_id=session_id, subject_id=subject_id, stem=first.stem, parent=first.parent.name
    )


def signature(paths: tuple[str, ...]) -> Signature:
    """Return size and time of each file: cheap to compare, never written into a data set.

    Raises
    ------
    SourceError
        A file is gone.
    """
    files = [file for path in paths for file in _files(path)]
    try:
        stats = [os.stat(file) for file in files]  # noqa: PTH116
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read: {error.strerror}") from error
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):  # noqa: PTH112
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)  # noqa: PTH118


@dataclass(frozen=True)
class Expected:
    """What planning saw of an input; reading must see the same."""

    fingerprint: str
    signature: Signature


class Reader:
    """Reads blocks of one input after the other; the last one stays open.

    Used by one thread. Opening costs as much as planning, so tasks that follow one another on the same input share it.
    """

    def __init__(self) -> None:
        self._key: tuple[Opening, Expected] | None = None
        self._opened: Opened | None = None

    def plan(self, opening: Opening) -> tuple[Opened, SourcePlan, Expected]:
        """Open an input for the first time; it stays open for the reads that may follow."""
        self.close()
        before = signature(opening.input.paths)
        opened = open_input(opening)
        try:
            plan = opened.samples.plan()
        except BaseException:
            opened.samples.close()
            raise
        expected = Expected(plan.fingerprint, before)
        self._key, self._opened = (opening, expected), opened
        return opened, plan, expected

    def read(self, opening: Opening, expected: Expected, start: int, stop: int) -> Block:
        """Return samples ``start`` to ``stop`` of an input.

        Raises
        ------
        InputChangedError
            The files are not those that were planned.
        SourceError
            The plugin failed; the message names the input.
        """
        samples = self._open(opening, expected).samples
        try:
            block = samples.read(start, stop)
        except NeurofmShardsError as error:
            raise _named(error, opening.input.name) from error
        except Exception as error:  # a plugin may raise anything, and damage is often found at read time only
            raise SourceError(
                f"{opening.input.name}: samples {start} to {stop} cannot be read: {type(error).__name__}: {error}"
            ) from error
        self._check_signature(opening, expected)
        return block

    def close(self) -> None:
        """Close the input that is open."""
        if self._opened is not None:
            self._opened.samples.close()
        self._opened = None
        self._key = None

    def _open(self, opening: Opening, expected: Expected) -> Opened:
        key = (opening, expected)
        if self._opened is None or self._key != key:
            self.close()
            self._check_signature(opening, expected)
            opened = open_input(opening)
            if opened.samples.plan().fingerprint != expected.fingerprint:
                opened.samples.close()
                raise _changed(opening)
            self._key, self._opened = key, opened
        return self._opened

    def _check_signature(self, opening: Opening, expected: Expected) -> None:
        if signature(opening.input.paths) != expected.signature:
            raise _changed(opening)


def _changed(opening: Opening) -> InputChangedError:
    return InputChangedError(
        f"{opening.input.name} changed after it was planned; wait until it is complete and run the conversion again"
    )


class _Local(threading.local):
    """One reader per worker, whatever kind of worker it is."""

    def __init__(self) -> None:
        self.reader = Reader()


_LOCAL = _Local()


def worker_reader() -> Reader:
    """Return this worker's reader: an input stays open between the tasks that one thread of one process runs."""
    return _LOCAL.reader
