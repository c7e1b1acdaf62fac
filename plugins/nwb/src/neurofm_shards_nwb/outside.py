"""What a file takes from outside of itself: links into other files, virtual datasets, external storage.

All of it is found, and refused where it leads out of the folder of the input, before anything is followed: a recording
from somebody else could otherwise name any file of the machine, whose bytes would end up in shards.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurofm_shards.errors import SourceError
from neurofm_shards.types import Problem
from neurofm_shards_nwb.hdf5_tree import Node

#: Where HDF5 looks for the files of links and virtual datasets besides, and whose names contain a list of folders.
_PREFIXES = ("HDF5_EXT_PREFIX", "HDF5_VDS_PREFIX")
#: Groups that hold one version of a cached schema, and datasets alone; https://nwb-schema.readthedocs.io, ".specloc".
_SCHEMAS = re.compile("specifications/[^/]+/[^/]+")
_STORE_METADATA = (".zattrs", "zarr.json", ".zmetadata")


@dataclass(frozen=True)
class Outside:
    """Other files that an input is made of.

    Attributes
    ----------
    files : tuple of str
        Their paths, sorted.
    problems : tuple of Problem
        Which object lies in which file.
    nodes : tuple of Node
        All groups of the input, those behind links into other files included; the root comes first.
    check_schemas : callable
        Looks at the cached schemas, which are a third of a small file's objects; to be called before any is read.
    """

    files: tuple[str, ...]
    problems: tuple[Problem, ...]
    nodes: tuple[Node, ...]
    check_schemas: Callable[[], None]


class Boundary:
    """The folders that the parts of one input may lie in.

    Parameters
    ----------
    path : str
        The input; it may itself be a link.
    allowed : sequence of str
        Other folders, named by whoever converts.
    """

    def __init__(self, path: str, allowed: Sequence[str] = ()) -> None:
        self.path = path
        self.folder = Path(path).absolute().parent
        inside = [self.folder.resolve(), Path(path).resolve().parent, *(Path(folder).resolve() for folder in allowed)]
        self._inside = tuple(dict.fromkeys(inside))

    def check(self, place: str, named: str, candidates: Sequence[Path]) -> list[Path]:
        """Return the files that a reference may lead to.

        Parameters
        ----------
        place : str
            The object that refers to it, for messages.
        named : str
            How it is named.
        candidates : sequence of Path
            Where it is looked for.

        Raises
        ------
        SourceError
            One of them lies elsewhere, or is no regular file.
        """
        found = []
        for path in candidates:
            try:
                mode = path.stat().st_mode
            except (OSError, ValueError):
                continue  # a link that leads nowhere is broken, and said to be so where its content is missed
            real = path.resolve()
            if not any(real.is_relative_to(folder) for folder in self._inside):
                raise SourceError(
                    f"{self.path}: {place} leads to {base_name(named)!r} outside of the folder of this file, which "
                    "could be any file of this machine: put it beside this one, or name its folder with "
                    "source={'allow_links': [FOLDER]}"
                )
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise SourceError(f"{self.path}: {place} leads to {base_name(named)!r}, which is no regular file")
            found.append(real)
        return found


def check_regular(path: str) -> None:
    """Refuse pipes, devices and sockets, which would be waited for.

    Raises
    ------
    SourceError
        The path is one of these.
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return  # whoever opens it says what is wrong
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise SourceError(f"{path} is no regular file (a pipe, a socket or a device), so it is no recording")


def survey(path: str, file: Any, allowed: Sequence[str] = ()) -> Outside:
    """Find everything that an open HDF5 file takes from outside of itself.

    Parameters
    ----------
    path : str
        The file.
    file : h5py.File
        Open; nothing outside of it is opened before it was found to be allowed.
    allowed : sequence of str
        Folders besides that of the file.

    Raises
    ------
    SourceError
        Something lies in external storage, or outside of the folders.
    """
    found = _Survey(Boundary(path, allowed))
    nodes = tuple(found.visit(file, Path(path).absolute(), through=True))
    return Outside(tuple(sorted(found.files)), tuple(found.problems), nodes, found.check_schemas)


class _Survey:
    def __init__(self, boundary: Boundary) -> None:
        self._boundary = boundary
        self._seen: set[Path] = set()
        self.files: set[str] = set()
        self.problems: list[Problem] = []
        self._schemas: list[tuple[Node, Path]] = []

    def check_schemas(self) -> None:
        """Look at the cached schemas, which :meth:`visit` has put off."""
        pending, self._schemas = self._schemas, []
        for _ in self._walk(pending, through=False, with_schemas=True):
            pass

    def visit(self, file: Any, path: Path, *, through: bool = False) -> Iterator[Node]:
        """Look at all objects of a file and of the files that its links lead to; yield each group once.

        With ``through``, groups behind links into other files are looked at and yielded like the file's own.
        """
        import h5py  # noqa: PLC0415  (only when a file is opened)

        self._seen.add(path.resolve())
        root = Node(h5py.h5g.open(file.id, b"/"), "")
        # another file is closed before its schemas could be asked for
        yield from self._walk([(root, path)], through=through, with_schemas=not through)

    def _walk(self, pending: list[tuple[Node, Path]], *, through: bool, with_schemas: bool) -> Iterator[Node]:
        import h5py  # noqa: PLC0415  (only when a file is opened)

        seen: set[tuple[int, Any]] = set()
        while pending:
            node, path = pending.pop()
            yield node
            if _SCHEMAS.fullmatch(node.path) and not with_schemas:
                self._schemas.append((node, path))
                continue
            for name, opened in self._members(node, path, through=through):
                if isinstance(opened, h5py.h5d.DatasetID):
                    self._check_storage(node.place(name), opened, path)
                elif isinstance(opened, h5py.h5g.GroupID):
                    info = h5py.h5o.get_info(opened)
                    if (info.fileno, info.addr) not in seen:
                        seen.add((info.fileno, info.addr))
                        inner = Node(opened, node.place(name))
                        own = node.links[name] == h5py.h5l.TYPE_HARD
                        pending.append((inner, path if own else Path(os.fsdecode(h5py.h5f.get_name(opened)))))

    def _members(self, node: Node, path: Path, *, through: bool) -> Iterator[tuple[str, Any]]:
        """Yield names and low-level objects of a group's members; those in other files where they are wanted."""
        import h5py  # noqa: PLC0415  (only when a file is opened)

        for name, kind in node.links.items():
            if kind == h5py.h5l.TYPE_EXTERNAL:
                self._follow(node.place(name), node.external(name).filename, path)
                if through and node.get(name) is not None:
                    yield name, node.open(name)
            elif kind == h5py.h5l.TYPE_HARD:
                yield name, node.open(name)
            elif kind != h5py.h5l.TYPE_SOFT:
                place = node.place(name)
                raise SourceError(f"{self._boundary.path}: {place} is a link of a kind that no reader knows ({kind})")

    def _check_storage(self, place: str, dataset: Any, path: Path) -> None:
        """Refuse external storage, and follow what a virtual dataset is put together from."""
        import h5py  # noqa: PLC0415  (only when a file is opened)

        if dataset.get_offset() is not None:
            return  # its bytes lie in this file, in one piece
        made = dataset.get_create_plist()
        if made.get_external_count():
            raise SourceError(
                f"{self._boundary.path}: the values of {place} lie in another file as they are (external storage), "
                "which could be any file of this machine; write them into the file, for example with h5repack"
            )
        if made.get_layout() == h5py.h5d.VIRTUAL:
            for source in h5py.Dataset(dataset).virtual_sources():
                self._check_source(place, source.file_name, path)

    def _check_source(self, place: str, named: str, path: Path) -> None:
        if "%" in named:
            raise SourceError(
                f"{self._boundary.path}: {place} is put together from files named {base_name(named)!r}, which stands "
                "for any number of names; write its values into the file, for example with h5repack"
            )
        if named != ".":
            self._follow(place, named, path)  # one that is not there is missed when values are read

    def _follow(self, place: str, named: str, path: Path) -> None:
        import h5py  # noqa: PLC0415  (only when a file is opened)

        for real in self._boundary.check(place, named, list(candidates(named, path))):
            if real in self._seen or not real.is_file():
                continue
            self.files.add(str(real))
            where = os.path.relpath(real, self._boundary.folder.resolve())
            inside = where if not where.startswith("..") else real.name
            self.problems.append(Problem(place, f"it lies in another file, {inside}", "it is read from there", "info"))
            if h5py.is_hdf5(real):
                with h5py.File(real, "r") as other:
                    for _ in self.visit(other, real):
                        pass


def candidates(named: str, path: Path) -> Iterator[Path]:
    """Yield the places where HDF5 looks for a file that another one names."""
    folders = [path.parent, path.resolve().parent, Path.cwd()]
    for prefix in _PREFIXES:
        folders += [Path(folder.replace("${ORIGIN}", str(path.parent))) for folder in _listed(prefix)]
    if os.path.isabs(named):  # noqa: PTH117  (a text from the file)
        yield Path(named)
    for folder in folders:
        yield folder / named.lstrip("/")
        yield folder / base_name(named)


def _listed(variable: str) -> list[str]:
    return [folder for folder in os.environ.get(variable, "").split(":") if folder]


def without_folders(named: str) -> str:
    """Return what a file is called: a relative path as it is, of an absolute one the name alone."""
    is_absolute = named.startswith(("/", "\\")) or named[1:2] == ":"
    return base_name(named) if is_absolute else named


def base_name(named: str) -> str:
    """Return a file's name without its folders, which may be those of another machine."""
    return named.replace("\\", "/").rstrip("/").rpartition("/")[2]


def check_store(path: str, allowed: Sequence[str] = ()) -> None:
    """Refuse a Zarr store that leads out of itself: by links of the file system, or by links in its metadata.

    Raises
    ------
    SourceError
        Naming the first file or object that does, or that is no regular file.
    """
    boundary = Boundary(str(Path(path).absolute() / "store"), allowed)
    boundary.path = path
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            entry = Path(folder) / name
            place = str(entry.relative_to(path))
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                boundary.check(place, name, [entry])
        for name in names:
            if name in _STORE_METADATA:
                _check_links_of_store(boundary, Path(path), Path(folder) / name)


def _check_links_of_store(boundary: Boundary, store: Path, file: Path) -> None:
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return  # the reader says what is wrong with it
    place = str(file.relative_to(store))
    for source in _sources(values):
        if "://" in source:
            raise SourceError(f"{boundary.path}: {place} leads to another machine ({source[:60]!r}), which is not read")
        boundary.check(place, source, [store / source, Path(source), Path.cwd() / source])


def _sources(values: Any) -> Iterator[str]:
    """Yield the stores that links and references in a store's metadata lead to."""
    if isinstance(values, dict):
        source = values.get("source")
        if isinstance(source, str) and "path" in values and source != ".":
            yield source
        for value in values.values():
            yield from _sources(value)
    elif isinstance(values, list):
        for value in values:
            yield from _sources(value)
