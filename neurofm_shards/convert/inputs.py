"""From what the user names (files, patterns, folders) to opened inputs, each with the source that reads it."""

from __future__ import annotations

import difflib
import glob
import os
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neurofm_shards._wording import counted, listed
from neurofm_shards.errors import (
    ConfigError,
    InputChangedError,
    InputNotFoundError,
    MissingPluginError,
    NeurofmShardsError,
    NothingToConvertError,
    PluginError,
    SourceError,
)
from neurofm_shards.format.manifest import MANIFEST_NAME, read_manifest
from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.interfaces import Samples, Source
from neurofm_shards.plugins.registry import Kind, Registered, install_hint_for_file, registry

if TYPE_CHECKING:
    from neurofm_shards.recordings.options import WindowOptions
    from neurofm_shards.streams import Recording
    from neurofm_shards.types import Block, SourcePlan

_GLOB_CHARACTERS = frozenset("*?[")
_HEAD_BYTES = 4096
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Input:
    """One input: files that belong together, and who reads them.

    Attributes
    ----------
    paths : tuple of str
        The files (or one folder), absolute: a worker may run in another folder.
    format : str
        Name of the source; empty where none reads it.
    options : str
        The source's resolved options as JSON; two inputs are equal when paths, format and options are.
    source : Source
        Opens them; picklable.
    given : tuple of str
        The files as the user named them.
    """

    paths: tuple[str, ...]
    format: str
    options: str
    source: Source = field(compare=False)
    given: tuple[str, ...] = field(compare=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        more = len(self.given) - 1
        return self.given[0] if not more else f"{self.given[0]} and {more} more"

    @property
    def file_names(self) -> list[str]:
        """Names without folders, for manifest and samples."""
        return [os.path.basename(os.path.realpath(path)) for path in self.paths]  # noqa: PTH119


def find_inputs(
    named: Sequence[str | os.PathLike[str]], format_name: str, options: dict[str, object], output: Path | None = None
) -> list[Input]:
    """Expand files, patterns and folders into inputs, in the order given; files named twice count once.

    Where several things are named, one that no source reads is an input that fails when it is opened.

    Parameters
    ----------
    named : sequence of path
        Files, folders (searched through, in sorted order) and patterns such as ``data/**/*.nwb`` (sorted matches).
    format_name : str
        A source's name, or ``"auto"``.
    options : dict
        Options of the source; with ``kind`` they are for that source only.
    output : Path, optional
        Where the data set goes: it is no input of itself, though it may lie in a folder that is named.

    Raises
    ------
    InputNotFoundError
        Nothing that is named exists, or a pattern matches nothing.
    MissingPluginError
        No installed source reads any of the files.
    ConfigError
        The options do not fit the source.
    """
    finder = _Finder(format_name)
    matches: list[tuple[str, Registered[SourceEntry]]] = []
    refused: dict[str, NeurofmShardsError] = {}
    seen: set[str] = set()
    for path in _expand(named):
        try:
            everything = finder.find(_regular(path))
        except (InputNotFoundError, MissingPluginError, SourceError) as error:
            refused.setdefault(path, error)
            continue
        for found, source in everything:
            real = os.path.realpath(_regular(found))
            if real not in seen:
                seen.add(real)
                matches.append((found, source))
    if output is not None:
        inside = os.path.realpath(output)
        matches = [item for item in matches if _holder(item[0]) != inside] or matches
    if not matches:
        raise _all_refused(refused)
    _check_names([path for path, _ in matches])
    return _grouped(matches, refused, options)


def _holder(path: str) -> str:
    """Return the data set that a path, of its folder or its manifest, is one of; the path itself for all else."""
    real = os.path.realpath(path)
    return os.path.dirname(real) if os.path.basename(real) == MANIFEST_NAME else real  # noqa: PTH119, PTH120


def _all_refused(refused: Mapping[str, NeurofmShardsError]) -> NeurofmShardsError:
    first, *others = refused.values()
    return type(first)("\n".join(map(str, refused.values()))) if others else first


@dataclass(frozen=True)
class _Refusing(Source):
    """Stands for the source of an input that none reads, so that this is told with all that is wrong with inputs."""

    error: NeurofmShardsError

    def open(self, paths: tuple[str, ...]) -> Samples:  # noqa: ARG002
        """Raise the error."""
        raise self.error


def _check_names(paths: Sequence[str]) -> None:
    """Refuse names that metadata, which is UTF-8, cannot hold."""
    names = [os.path.basename(os.path.realpath(path)) for path in paths]  # noqa: PTH119
    odd = [name.encode(errors="backslashreplace").decode() for name in names if not _is_utf8(name)]
    if odd:
        raise SourceError(
            f"the names of {len(odd)} of {counted(len(paths), 'input')} are not UTF-8, as what samples say of "
            f"themselves is: {listed(odd, _NAMES_SHOWN)}. Rename them"
        )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _regular(path: str) -> str:
    """Return a path that is a file or folder, or cannot be read; pipes, sockets and devices would be waited for."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError:  # a link to nowhere: opening it says so, among all that is wrong with the inputs
        return path
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise SourceError(f"{path} is no regular file (a pipe, a socket or a device): copy what it gives into a file")
    return path


def _expand(named: Sequence[str | os.PathLike[str]]) -> Iterable[str]:
    if not named:
        raise InputNotFoundError("no input was given: name files, folders or patterns")
    for item in named:
        text = os.path.expanduser(os.fspath(item))  # noqa: PTH111  (patterns are not paths)
        if os.path.lexists(text):
            yield text
        elif _GLOB_CHARACTERS & set(text):
            matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207  (absolute patterns)
            if not matches:
                raise InputNotFoundError(f"no file matches the pattern {text}")
            yield from matches
        else:
            yield text  # whoever looks for it says that it does not exist


def _grouped(
    matches: list[tuple[str, Registered[SourceEntry]]],
    refused: Mapping[str, NeurofmShardsError],
    options: dict[str, object],
) -> list[Input]:
    position = {path: i for i, (path, _) in enumerate(matches)}
    by_source: dict[str, list[str]] = {}
    registered = {source.qualified_name: source for _, source in matches}
    for path, source in matches:
        by_source.setdefault(source.qualified_name, []).append(path)
    _check_options(options, [source.entry.name for source in registered.values()])
    inputs: list[tuple[int, Input]] = []
    for qualified, paths in by_source.items():
        source = registered[qualified]
        name = source.entry.name
        own = options if options.get("kind", name) == name else {}
        model = source.validate(own)
        text = model.model_dump_json() if model is not None else "{}"
        opener = source.make(own)
        inputs += [(_place(group, position), _input(group, name, text, opener)) for group in opener.group(paths)]
    unread = [_input((path,), "", "{}", _Refusing(error)) for path, error in refused.items()]
    return [*(item for _, item in sorted(inputs, key=lambda pair: pair[0])), *unread]


def _input(group: Sequence[str], name: str, options: str, source: Source) -> Input:
    return Input(tuple(map(os.path.abspath, group)), name, options, source, tuple(group))


def _place(group: Sequence[str], position: Mapping[str, int]) -> int:
    """Return the place of an input among those named: that of its first file, or of the folder or file it lies in."""
    places = [position.get(path, position.get(os.path.dirname(path))) for path in group]  # noqa: PTH120
    return min((place for place in places if place is not None), default=len(position))


def _check_options(options: dict[str, object], names: list[str]) -> None:
    kind = options.get("kind")
    if kind is not None and kind not in names:
        raise ConfigError(f"source options are for {kind!r}, but the inputs are read by {sorted(set(names))}")
    if options and kind is None and len(set(names)) > 1:
        raise ConfigError(
            f"inputs are of several formats {sorted(set(names))}: say which one the source options "
            f"{sorted(options)} are for (kind = NAME), or convert them apart and merge"
        )


class _Finder:
    """Finds the source of a path, by name, suffix or first bytes."""

    def __init__(self, format_name: str) -> None:
        self._sources: Kind[SourceEntry] = registry().sources
        self._named = None if format_name == "auto" else self._sources.get(format_name)

    def find(self, path: str) -> list[tuple[str, Registered[SourceEntry]]]:
        """Return the inputs at a path: the file itself, or what a folder holds."""
        if not os.path.lexists(path):
            raise InputNotFoundError(f"input {path} does not exist")
        if not os.path.isdir(path):  # noqa: PTH112
            return [(path, self._named or self._of_file(path))]
        whole = self._of_suffix(path, folders=True) or self._of_folders()
        if whole is not None:
            return [(path, whole)]
        found = self._search(path)
        if not found:
            wanted = f"of format {self._named.entry.name!r}" if self._named else self._known()
            raise NothingToConvertError(f"folder {path} holds no file {wanted}")
        return found

    def _of_folders(self) -> Registered[SourceEntry] | None:
        """Return the named source when its inputs are folders whatever they are called."""
        named = self._named
        return named if named is not None and named.entry.folders and not named.entry.suffixes else None

    def _search(self, top: str) -> list[tuple[str, Registered[SourceEntry]]]:
        found: list[tuple[str, Registered[SourceEntry]]] = []
        for folder, folders, files in os.walk(top):
            visible = sorted(name for name in folders if not name.startswith("."))
            stores = {name: self._of_suffix(os.path.join(folder, name), folders=True) for name in visible}  # noqa: PTH118
            folders[:] = [name for name in visible if stores[name] is None]
            found += [(os.path.join(folder, name), store) for name, store in stores.items() if store]  # noqa: PTH118
            for name in sorted(files):
                path = os.path.join(folder, name)  # noqa: PTH118
                source = None if name.startswith(".") else self._of_suffix(path)
                if source is not None:
                    entry = source.entry
                    item = (folder if entry.folders and entry.joins_files else path, source)
                    found += [] if item in found[-1:] else [item]
        return [item for item in found if not _is_cut(item[0])] or found

    def _of_suffix(self, path: str, *, folders: bool = False) -> Registered[SourceEntry] | None:
        name = os.path.basename(os.path.normpath(path)).lower()  # noqa: PTH119
        candidates = [self._named] if self._named else self._sources.entries()
        fitting = [
            (max(len(suffix) for suffix in source.entry.suffixes if name.endswith(suffix)), source)
            for source in candidates
            if any(name.endswith(suffix) for suffix in source.entry.suffixes) and (source.entry.folders or not folders)
        ]
        longest = max((length for length, _ in fitting), default=0)
        best = [source for length, source in fitting if length == longest]
        if len(best) > 1 and not folders:
            best = [source for source in best if _has_magic(path, source.entry)] or best
        return _only(path, best)

    def _of_file(self, path: str) -> Registered[SourceEntry]:
        source = self._of_suffix(path) or _only(
            path, [source for source in self._sources.entries() if _has_magic(path, source.entry)]
        )
        if source is not None:
            return source
        line = install_hint_for_file(path)
        hint = f"install one with: {line}" if line else f"its suffix is not one {self._known()}"
        raise MissingPluginError(f"no installed source reads {path}; {hint}")

    def _known(self) -> str:
        known = [f"{item.entry.name} ({', '.join(item.entry.suffixes)})" for item in self._sources.entries()]
        return f"of a known format; installed: {', '.join(known) or 'none'}; format=NAME names one"


def _is_cut(path: str) -> bool:
    """Return whether a path is of a data set of windows: what was made of recordings that lie beside it, perhaps."""
    folder = Path(_holder(path))
    manifest = read_manifest(folder) if (folder / MANIFEST_NAME).is_file() else None
    return manifest is not None and not manifest.stores_recordings


def _only(path: str, best: list[Registered[SourceEntry]]) -> Registered[SourceEntry] | None:
    if len(best) > 1:
        names = ", ".join(source.qualified_name for source in best)
        raise PluginError(f"{path} could be read by several sources ({names}); say which with format=NAME")
    return best[0] if best else None


def _has_magic(path: str, entry: SourceEntry) -> bool:
    if not entry.magic:
        return False
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputNotFoundError(f"input {path} cannot be read: {error.strerror or error}") from error
    return any(head[offset : offset + len(magic)] == magic for offset, magic in entry.magic)


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
    said = _by_file(spec.subject_ids)
    named = [said[name] for name in sorted(_names_of(spec.input) & said.keys(), key=len)] if said else []
    own = recording.subject_id if recording.subject_is_known else ""
    template = spec.subject_template
    if named or template != "{subject_id}":
        made = template.format(
            session_id=recording.session_id, subject_id=own, stem=first.stem, parent=first.parent.name
        )
        recording.subject_id = named[-1] if named else made
        recording.subject_is_known = bool(recording.subject_id)


def unmatched_subjects(subject_ids: Sequence[str], inputs: Sequence[Input], others: Iterable[str] = ()) -> str:
    """Say which subject ids are of no input, and what inputs there are; empty where each is of one.

    Parameters
    ----------
    subject_ids : sequence of str
        See ``ConversionConfig.subject_ids``.
    inputs : sequence of Input
        What is converted.
    others : iterable of str
        Names, without folders, of files that were converted before.
    """
    said = _by_file(subject_ids)
    names = {name for item in inputs for name in _names_of(item)} if said else set()
    before = set(others)
    wrong = [name for name in said if name not in names and os.path.basename(name) not in before]  # noqa: PTH119
    if not wrong:
        return ""
    likeness = difflib.SequenceMatcher(b=os.path.basename(wrong[0]))  # noqa: PTH119
    given = sorted((item.given[0] for item in inputs), key=lambda path: -_ratio(likeness, path))
    return (
        f"subject_ids: no input is called {listed(list(map(repr, wrong)), _NAMES_SHOWN)}; "
        f"{counted(len(given), 'input')}: {listed(given, _NAMES_SHOWN)}"
    )


def _ratio(likeness: difflib.SequenceMatcher[str], path: str) -> float:
    likeness.set_seq1(os.path.basename(path))  # noqa: PTH119
    return likeness.ratio()


def _by_file(subject_ids: Sequence[str]) -> dict[str, str]:
    pairs = (pair.split("=", 1) for pair in subject_ids)
    return {_plain(file): name for file, name in pairs}


def _names_of(item: Input) -> set[str]:
    """Return what a user may call an input: its file as it was named, or the end of a path to it."""
    found = {_plain(item.given[0])}
    for path in (item.paths[0], os.path.realpath(item.paths[0])):
        parts = _plain(path).split("/")
        found.update("/".join(parts[i:]) for i in range(len(parts)))
    return found


def _plain(path: str) -> str:
    return os.path.normpath(os.path.expanduser(path)).strip("/")  # noqa: PTH111


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
