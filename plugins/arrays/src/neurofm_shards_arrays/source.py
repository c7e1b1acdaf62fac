"""Reads ``.npy`` files, memory-mapped, as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from neurofm_shards._wording import counted, listed
from neurofm_shards.errors import NothingToConvertError, SourceError
from neurofm_shards.plugins.interfaces import Samples, Source
from neurofm_shards.plugins.toolkit import field_name, file_fingerprint
from neurofm_shards.types import Block, ColumnSpec, Problem, SourcePlan
from neurofm_shards_arrays.config import ArraysConfig

_NAMES_SHOWN = 5
Arrays = Mapping[str, npt.NDArray[np.generic]]


class ArraysSource(Source):
    """Opens ``.npy`` files; several files, or a folder of them, are one input."""

    def __init__(self, config: ArraysConfig) -> None:
        self.config = config

    def group(self, paths: Sequence[str]) -> Sequence[tuple[str, ...]]:
        """Make one input of all files, or one per folder where names repeat; each folder given is one input."""
        folders = [path for path in paths if Path(path).is_dir()]
        files = [path for path in paths if path not in folders]
        groups: dict[str, list[str]] = {}
        repeated = len({Path(path).stem for path in files}) < len(files)
        for path in files:
            groups.setdefault(str(Path(path).parent) if repeated else "", []).append(path)
        return [(path,) for path in folders] + [tuple(group) for group in groups.values()]

    def open(self, paths: tuple[str, ...]) -> Samples:
        """Map the files of one input.

        Raises
        ------
        SourceError
            Files are not plain arrays, names collide or first dimensions differ; says all of it.
        """
        files, problems = _files(paths, chosen=self.config.columns is not None)
        files = self._chosen(files)
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        taken: dict[str, str] = {}
        wrong: dict[str, list[str]] = {}
        for path in files:
            name = field_name(Path(path).stem)
            try:
                array = _map_file(path)
            except SourceError as error:
                wrong.setdefault(str(error), []).append(path)
                continue
            if taken.setdefault(name, path) == path:
                arrays[name] = array
            else:
                wrong.setdefault(
                    f"{Path(taken[name]).name} also gives column {name!r}: rename one, or choose with columns", []
                ).append(path)
        if uneven := _uneven(taken, arrays):
            wrong[uneven] = []
        if wrong:
            raise SourceError(_all_that_is_wrong(wrong, files))
        return ArraySamples(files, arrays, self._session_id(paths), self.config.subject_id, problems)

    def _chosen(self, files: list[str]) -> list[str]:
        if self.config.columns is None:
            return files
        by_stem = {Path(path).stem: path for path in files}
        missing = [name for name in self.config.columns if name not in by_stem]
        if missing:
            raise SourceError(f"no file {missing[0]}.npy among {sorted(by_stem)} in {Path(files[0]).parent}")
        return [by_stem[name] for name in self.config.columns]

    def _session_id(self, paths: tuple[str, ...]) -> str:
        if self.config.session_id is not None:
            return self.config.session_id
        first = Path(paths[0]).resolve()
        return first.name if first.is_dir() else first.stem if len(paths) == 1 else first.parent.name


def _files(paths: tuple[str, ...], *, chosen: bool) -> tuple[list[str], list[Problem]]:
    """Return the files of an input, and what is left out of its folders: hidden files, and pickled objects."""
    found: list[str] = []
    problems: list[Problem] = []
    for path in paths:
        if not Path(path).is_dir():
            found.append(path)
            continue
        inside = sorted(item for item in Path(path).iterdir() if item.suffix.lower() == ".npy" and item.is_file())
        inside = [item for item in inside if not item.name.startswith(".")]
        pickled = [] if chosen else [item for item in inside if _holds_objects(item)]
        what = "it holds Python objects, which are never unpickled"
        problems += [Problem(item.name, what, "left out") for item in pickled]
        if len(inside) == len(pickled):
            raise NothingToConvertError(f"folder {path} holds no .npy files of numbers")
        found += [str(item) for item in inside if item not in pickled]
    return found, problems


def _holds_objects(path: Path) -> bool:
    """Return whether a file says that its values are pickled objects."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(file)[2].hasobject
    except ValueError:
        return False  # whoever maps it says what is wrong


def _map_file(path: str) -> npt.NDArray[np.generic]:
    """Map an array; SourceError, without the name of the file, where it is none of numbers."""
    if not _begins_like_one(path):
        raise SourceError("is no .npy file: it does not begin like one")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle" in reason or "object" in reason.lower():
            reason = "it holds Python objects, which are never unpickled; save plain numeric arrays instead"
        raise SourceError(f"cannot be read as a .npy array: {reason}") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise SourceError("holds a single value, not an array of samples: its first dimension must be the samples")
    if array.dtype.kind not in "biufc":
        raise SourceError(f"has dtype {array.dtype}, which is not numeric; leave it out with columns")
    return array


def _begins_like_one(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
    except OSError:
        return True  # whoever maps it says what is wrong


def _uneven(files: Mapping[str, str], arrays: Arrays) -> str:
    """Return, in words, that arrays have several numbers of samples; empty where they have one."""
    if len({len(array) for array in arrays.values()}) < 2:
        return ""
    shown = ", ".join(f"{Path(files[name]).name} {array.shape}" for name, array in arrays.items())
    return (
        f"arrays in {Path(next(iter(files.values()))).parent} must have the same first dimension (the samples): "
        f"{shown}; convert them apart, or choose with columns"
    )


def _all_that_is_wrong(wrong: Mapping[str, Sequence[str]], files: Sequence[str]) -> str:
    """Return one message about all files that cannot be taken, those with one cause together."""
    folders = {Path(path).parent for path in files}
    number = sum(map(len, wrong.values()))
    if len(wrong) == 1 and number < 2:
        return " ".join([*next(iter(wrong.values())), next(iter(wrong))])
    told = []
    for cause, paths in wrong.items():
        names = [Path(path).name for path in paths] if len(folders) == 1 else paths
        told.append(f"{listed(names, _NAMES_SHOWN)}: {cause}" if names else cause)
    where = f"{folders.pop()}: " if len(folders) == 1 else ""
    return "\n  ".join([f"{where}{number} of {counted(len(files), 'file')} cannot be taken", *told])


def _stored(array: npt.NDArray[np.generic]) -> np.dtype[np.generic]:
    stored: np.dtype[np.generic] = array.dtype.newbyteorder("<")
    return stored


class ArraySamples(Samples):
    """Row ``i`` of every array is sample ``i``."""

    def __init__(
        self,
        files: Sequence[str],
        arrays: Arrays,
        session_id: str,
        subject_id: str,
        problems: Sequence[Problem] = (),
    ) -> None:
        self._problems = tuple(problems)
        self._files = list(files)
        self._arrays = arrays
        self._names = {"session_id": session_id, "subject_id": subject_id}
        self._length = len(next(iter(arrays.values())))

    def plan(self) -> SourcePlan:
        """Describe the columns; no data is read but for the fingerprint."""
        columns = tuple(ColumnSpec(name, _stored(array).str, array.shape[1:]) for name, array in self._arrays.items())
        facts = {**self._names, "files": [Path(path).name for path in self._files]}
        return SourcePlan(self._length, columns, file_fingerprint(self._files), facts, problems=self._problems)

    def read(self, start: int, stop: int) -> Block:
        """Copy rows out of the maps."""
        columns = {name: np.array(a[start:stop], _stored(a), order="C") for name, a in self._arrays.items()}
        file_name = Path(self._files[0]).name
        metadata = [{**self._names, "source_file": file_name, "source_row": i} for i in range(start, stop)]
        return Block(columns, metadata)

    def close(self) -> None:
        """Let go of the maps."""
        self._arrays = {}
