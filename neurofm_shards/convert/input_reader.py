"""Inputs that are opened, their blocks of samples, and what they are called: each process keeps some open."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neurofm_shards.convert.inputs import Input, names_of, subjects_by_file
from neurofm_shards.errors import ConfigError, InputChangedError, NeurofmShardsError, SourceError
from neurofm_shards.plugins.interfaces import Samples

if TYPE_CHECKING:
    from neurofm_shards.recordings.options import WindowOptions
    from neurofm_shards.streams import Recording
    from neurofm_shards.types import Block, SourcePlan

#: Size and time of each file.
Signature = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class InputSpec:
    """How an input is opened: everything that its samples depend on.

    Attributes
    ----------
    input : Input
        Files and source.
    windows : WindowOptions
        Used when the source gives a recording.
    session_template : str
        See ``ConversionConfig.session_template``.
    subject_template, subject_ids
        See ``ConversionConfig``.
    split : str
        The split of all samples, where it follows from those of all inputs; empty where it does not.
    piece_bytes : int or None
        Bytes of the samples that a recording is stored in as it is; None where it is cut into windows.
    others : tuple of str
        Modalities that other inputs give; empty and masked where this one lacks them.
    """

    input: Input
    windows: WindowOptions
    session_template: str = "{session_id}"
    piece_bytes: int | None = None
    subject_template: str = "{subject_id}"
    subject_ids: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True)
class OpenedInput:
    """An open input.

    Attributes
    ----------
    samples : Samples
        What to read from.
    is_recording : bool
        Whether they are windows or pieces of a recording.
    """

    samples: Samples
    is_recording: bool

    def in_split(self, name: str) -> OpenedInput:
        """Return the input with all windows in one split."""
        from neurofm_shards.recordings.windowing import RecordingSamples  # noqa: PLC0415  (only recordings need it)

        if not isinstance(self.samples, RecordingSamples):
            raise TypeError("only windows of recordings are put into splits")
        return replace(self, samples=self.samples.in_split(name))


def open_input(spec: InputSpec) -> OpenedInput:
    """Open an input and window it where it is a recording (raises SourceError)."""
    name = spec.input.name
    try:
        opened = spec.input.source.open(spec.input.paths)
        if isinstance(opened, Samples):
            _check_cut_is_wanted(spec, opened)
            return OpenedInput(opened, is_recording=False)
        name_subject(spec, opened)
        opened.session_id = session_name(spec, opened.session_id, opened.subject_id)
        made = OpenedInput(_samples(opened, spec), is_recording=True)
        return made.in_split(spec.split) if spec.split else made
    except NeurofmShardsError as error:
        raise _named(error, name) from error
    except Exception as error:  # a plugin may raise anything
        raise SourceError(f"{name} cannot be opened: {type(error).__name__}: {error}") from error


def _samples(recording: Recording, spec: InputSpec) -> Samples:
    """Cut a recording into windows, or into the pieces that it is stored in."""
    if spec.piece_bytes is not None:
        from neurofm_shards.recordings.pieces import RecordingPieces  # noqa: PLC0415  (needed by few)

        return RecordingPieces(recording, spec.piece_bytes)
    from neurofm_shards.recordings import windowed  # noqa: PLC0415  (only recordings need windows)

    return windowed(recording, spec.windows, spec.others)


def _check_cut_is_wanted(spec: InputSpec, samples: Samples) -> None:
    if spec.piece_bytes is not None:
        samples.close()
        raise ConfigError(
            f"{spec.input.name} holds samples that are cut already, and layout=recordings stores recordings: leave "
            "it out, or give the source's options that say where time is"
        )


def _named(error: NeurofmShardsError, name: str) -> NeurofmShardsError:
    text = str(error)
    return error if os.path.basename(name) in text else type(error)(f"{name}: {text}")  # noqa: PTH119


def session_name(spec: InputSpec, session_id: str, subject_id: str) -> str:
    """Fill in the session template for one input."""
    first = Path(os.path.realpath(spec.input.paths[0]))
    return spec.session_template.format(
        session_id=session_id, subject_id=subject_id, stem=first.stem, parent=first.parent.name
    )


def name_subject(spec: InputSpec, recording: Recording) -> None:
    """Give a recording the subject id that the options say; the longest name of a file that fits counts."""
    first = Path(os.path.realpath(spec.input.paths[0]))
    said = subjects_by_file(spec.subject_ids)
    named = [said[name] for name in sorted(names_of(spec.input) & said.keys(), key=len)] if said else []
    own = recording.subject_id if recording.subject_is_known else ""
    template = spec.subject_template
    if named or template != "{subject_id}":
        made = template.format(
            session_id=recording.session_id, subject_id=own, stem=first.stem, parent=first.parent.name
        )
        recording.subject_id = named[-1] if named else made
        recording.subject_is_known = bool(recording.subject_id)


def signature(paths: tuple[str, ...]) -> Signature:
    """Return size and time of each file: cheap to compare, never written into a data set (raises SourceError)."""
    files = [file for path in paths for file in _files(path)]
    try:
        stats = [os.stat(file) for file in files]  # noqa: PTH116
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read: {error.strerror}") from error
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


def bytes_of(paths: tuple[str, ...], otherwise: int) -> int:
    """Return the size of files; ``otherwise`` where one is a folder, or cannot be looked at."""
    try:
        found = [os.stat(path) for path in paths]  # noqa: PTH116
    except OSError:  # whoever opens it says what is wrong
        return otherwise
    return otherwise if any(stat.S_ISDIR(one.st_mode) for one in found) else sum(one.st_size for one in found)


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):  # noqa: PTH112
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)  # noqa: PTH118


@dataclass(frozen=True)
class Expected:
    """What planning saw of an input; reading must see the same."""

    fingerprint: str
    signature: Signature


#: What an open input is found by: its files and what they were when it was planned.
_Key = tuple[tuple[str, ...], Expected]
#: Bytes that inputs which stay open from planning until they are read may take, in all workers together.
KEPT_BYTES = 320 << 20
#: What an open input takes beside its data, about: caches of the HDF5 library.
_BYTES_PER_INPUT = 1 << 20


class InputReader:
    """Reads blocks of one input after the other; what planning opened stays open until it is read, within limits.

    Used by one thread. Opening costs as much as planning, so tasks that follow one another on the same input share it,
    and so do planning and reading of small inputs.
    """

    def __init__(self) -> None:
        self._current: _Key | None = None
        self._kept: dict[_Key, tuple[InputSpec, OpenedInput]] = {}
        self._kept_bytes = 0

    def plan(self, spec: InputSpec, kept_bytes: int = 0) -> tuple[OpenedInput, SourcePlan, Expected]:
        """Open an input for the first time.

        It stays open for the reads that may follow, until others are opened; longer where all that stay open so take no
        more than ``kept_bytes``.
        """
        self._close_current()
        before = signature(spec.input.paths)
        opened = open_input(spec)
        try:
            plan = opened.samples.plan()
        except BaseException:
            opened.samples.close()
            raise
        expected = Expected(plan.fingerprint, before)
        self._keep(spec, expected, opened)
        if self._kept_bytes > kept_bytes:
            self._current = (spec.input.paths, expected)
        return opened, plan, expected

    def read(self, spec: InputSpec, expected: Expected, start: int, stop: int) -> Block:
        """Return samples ``start`` to ``stop`` of an input.

        Raises
        ------
        InputChangedError
            The files are not those that were planned.
        SourceError
            The plugin failed; the message names the input.
        """
        samples = self._open(spec, expected).samples
        try:
            block = samples.read(start, stop)
        except NeurofmShardsError as error:
            raise _named(error, spec.input.name) from error
        except Exception as error:  # a plugin may raise anything, and damage is often found at read time only
            raise SourceError(
                f"{spec.input.name}: samples {start} to {stop} cannot be read: {type(error).__name__}: {error}"
            ) from error
        self._check_signature(spec, expected)
        return block

    def close(self) -> None:
        """Close all inputs that are open."""
        self._current = None
        for _, opened in self._kept.values():
            opened.samples.close()
        self._kept, self._kept_bytes = {}, 0

    def _open(self, spec: InputSpec, expected: Expected) -> OpenedInput:
        key = (spec.input.paths, expected)
        if self._current != key:
            self._close_current()
        kept, opened = self._kept.get(key, (None, None))
        if opened is not None and kept is not None and kept != spec and kept == replace(spec, split=kept.split):
            opened = opened.in_split(spec.split)
            self._kept[key] = (spec, opened)
        elif opened is None or kept != spec:
            self._check_signature(spec, expected)
            opened = open_input(spec)
            if opened.samples.plan().fingerprint != expected.fingerprint:
                opened.samples.close()
                raise _changed(spec)
            self._keep(spec, expected, opened)
        self._current = key
        return opened

    def _keep(self, spec: InputSpec, expected: Expected, opened: OpenedInput) -> None:
        key = (spec.input.paths, expected)
        self._drop(key)
        self._kept[key] = (spec, opened)
        self._kept_bytes += _bytes_of(key)

    def _close_current(self) -> None:
        """Close the input that was read last, or had no room beside those that are kept."""
        if self._current is not None:
            self._drop(self._current)
        self._current = None

    def _drop(self, key: _Key) -> None:
        if key in self._kept:
            self._kept.pop(key)[1].samples.close()
            self._kept_bytes -= _bytes_of(key)

    def _check_signature(self, spec: InputSpec, expected: Expected) -> None:
        if signature(spec.input.paths) != expected.signature:
            raise _changed(spec)


def _bytes_of(key: _Key) -> int:
    return _BYTES_PER_INPUT + sum(size for size, _ in key[1].signature)


def _changed(spec: InputSpec) -> InputChangedError:
    return InputChangedError(
        f"{spec.input.name} changed after it was planned; wait until it is complete, and run the conversion again"
    )


class _Local(threading.local):
    """One reader per worker, whatever kind of worker it is."""

    def __init__(self) -> None:
        self.reader = InputReader()


_LOCAL = _Local()


def worker_reader() -> InputReader:
    """Return this worker's reader: an input stays open between the tasks that one thread of one process runs."""
    return _LOCAL.reader
