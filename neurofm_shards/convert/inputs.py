"""From what the user names (files, patterns, folders) to inputs, each with the source that reads it."""

from __future__ import annotations

import difflib
import glob
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neurofm_shards._wording import counted, listed
from neurofm_shards.errors import (
    ConfigError,
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
    said = subjects_by_file(subject_ids)
    names = {name for item in inputs for name in names_of(item)} if said else set()
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


def subjects_by_file(subject_ids: Sequence[str]) -> dict[str, str]:
    """Return the subject ids of ``FILE=ID`` by file."""
    pairs = (pair.split("=", 1) for pair in subject_ids)
    return {_plain(file): name for file, name in pairs}


def names_of(item: Input) -> set[str]:
    """Return what a user may call an input: its file as it was named, or the end of a path to it."""
    found = {_plain(item.given[0])}
    for path in (item.paths[0], os.path.realpath(item.paths[0])):
        parts = _plain(path).split("/")
        found.update("/".join(parts[i:]) for i in range(len(parts)))
    return found


def _plain(path: str) -> str:
    return os.path.normpath(os.path.expanduser(path)).strip("/")  # noqa: PTH111
