"""The source ``nwb``: opens a file with the reader it needs, and says why where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from neurofm_shards._wording import counted
from neurofm_shards.errors import InputNotFoundError, NeurofmShardsError, NothingToConvertError, SourceError
from neurofm_shards.plugins.interfaces import Inspection, Source
from neurofm_shards.streams import Recording
from neurofm_shards.types import Problem
from neurofm_shards_nwb.config import NwbConfig
from neurofm_shards_nwb.content import FileContent, text
from neurofm_shards_nwb.hdf5_file import is_zarr_store, open_hdf5
from neurofm_shards_nwb.hdf5_reader import (
    TypeTree,
    Walk,
    linked_files,
    mark_broken,
    missing_links,
    missing_object,
    read_hdf5,
    walk,
)
from neurofm_shards_nwb.nwb1_reader import facts_1, streams_1, version_1
from neurofm_shards_nwb.outside import Outside, check_regular, check_store, survey
from neurofm_shards_nwb.recording import NwbRecording, describe, fingerprint, folder_fingerprint
from neurofm_shards_nwb.sweeps import stored_sweeps

Reader = Literal["auto", "pynwb", "h5py"]

LOOKED_FOR = (
    "units tables, ElectricalSeries (LFP, FilteredEphys, acquisition), position and other behavior, RoiResponseSeries, "
    "events, and tables of intervals (trials, epochs, ...)"
)
_SHOWN = 8
_LOOKED_FOR_1 = "UnitTimes and Clustering in processing, and epochs"


@dataclass(frozen=True)
class OpenedFile:
    """A file as far as it could be opened.

    Attributes
    ----------
    recording : NwbRecording
        Its streams; perhaps none.
    title : str
        File name, format and version.
    refusal : str
        Why the file must not be converted although it could be opened; empty when it may.
    content : FileContent or None
        What was found; None for NWB 1.x.
    """

    recording: NwbRecording
    title: str
    refusal: str = ""
    content: FileContent | None = None


class NwbSource(Source):
    """Opens NWB files as recordings.

    Parameters
    ----------
    config : NwbConfig
        Which reader to use.
    """

    def __init__(self, config: NwbConfig | None = None) -> None:
        self.config = config or NwbConfig(reader="auto")

    def open(self, paths: tuple[str, ...]) -> Recording:
        """Open one file.

        Raises
        ------
        NothingToConvertError
            The file is sound and holds nothing that could become samples.
        SourceError
            The file cannot be read; the message names the file, what is wrong with it and what to do.
        """
        path = _only(paths)
        opened = open_file(path, self.config.reader, self.config.allow_links)
        refusal = _refusal(path, opened)
        if refusal is not None:
            opened.recording.close()
            raise refusal
        return opened.recording

    def inspect(self, paths: tuple[str, ...]) -> Inspection:
        """Say what is inside, also of files that cannot be converted or not even opened."""
        from neurofm_shards.recordings.inspection import inspect_recording  # noqa: PLC0415  (numpy work for inspect only)

        path = _only(paths)
        try:
            opened = open_file(path, self.config.reader, self.config.allow_links)
        except InputNotFoundError:
            raise
        except SourceError as error:
            return Inspection(f"{Path(path).name} (cannot be opened)", {}, [_refused(str(error))])
        with opened.recording:
            found = inspect_recording(opened.recording, opened.title)
            refusal = _refusal(path, opened)
            problems = [_refused(str(refusal))] if refusal is not None and not opened.refusal else []
            rest = _not_converted(opened)
            tree = {**found.tree, **({"not converted": rest} if rest else {})}
            return Inspection(found.title, tree, [*problems, *found.problems])


def open_file(path: str, reader: Reader = "auto", allowed: Sequence[str] = ()) -> OpenedFile:
    """Open an NWB file or store; ``allowed`` are folders besides its own that its links may lead to.

    Raises
    ------
    InputNotFoundError, SourceError
        It cannot be opened, or is not NWB.
    """
    check_regular(path)
    if is_zarr_store(path):
        check_store(path, allowed)
        return _open_zarr(path)
    file = open_hdf5(path)
    try:
        return _open_hdf5(path, file, reader, survey(path, file, allowed))
    except NeurofmShardsError:
        file.close()
        raise
    except Exception as error:
        file.close()
        raise SourceError(
            f"{path} cannot be understood ({_last_words(error)}): parts of it are damaged or not what the NWB schema "
            "says; get it again, or check it with pynwb.validate"
        ) from error


def _open_hdf5(path: str, file: Any, reader: Reader, outside: Outside) -> OpenedFile:
    name = Path(path).name
    old = version_1(file)
    if old:
        mark = fingerprint(path, list(outside.files))
        recording = NwbRecording(path, old, facts_1(file), streams_1(path, file), mark, file.close)
        return OpenedFile(recording, f"{name} (NWB {old}, read without pynwb)")
    if "nwb_version" not in file.attrs:
        held = ", ".join(sorted(file)[:8]) or "nothing"
        raise SourceError(
            f"{path} is HDF5 but not NWB (its root has no nwb_version; it holds {held}): say its "
            "format with format=NAME"
        )
    types, found = TypeTree(file, outside.check_schemas), walk(outside.nodes)
    missing = missing_links(found.links)
    content = mark_broken(_read(path, file, reader, types, found), missing)
    content = replace(content, sweeps=stored_sweeps(file, found.nodes))
    streams, problems = describe(content)
    refusal = missing_object(content, missing)
    if not streams and types.extensions and reader == "auto" and not refusal:
        content, refusal = _read_extensions(path, file, types, content)
        streams, problems = describe(content)
    if refusal:
        problems.insert(0, _refused(refusal))
    problems += outside.problems
    mark = fingerprint(path, _others(linked_files(path, found.links), outside))
    recording = NwbRecording(path, content.version, content.facts, (streams, problems), mark, content.close)
    return OpenedFile(recording, f"{name} (NWB {content.version}{_named(types)})", refusal, content)


def _others(linked: list[str], outside: Outside) -> list[str]:
    """Return all files that a file is made of besides, each once."""
    known = {str(Path(name).resolve()) for name in linked}
    return [*linked, *(name for name in outside.files if name not in known)]


def _read(path: str, file: Any, reader: Reader, types: TypeTree, found: Walk) -> FileContent:
    """Read as the file says; with pynwb where it is asked for, or where a file is built unlike what is known here."""
    failure: Exception | None = None
    if reader != "pynwb":
        try:
            return read_hdf5(path, file, types, found)
        except NeurofmShardsError:
            raise
        except Exception as error:
            if reader == "h5py":
                raise
            failure = error
    try:
        content = _read_with_pynwb(path, file, types)
    except Exception as error:
        if failure is not None:
            raise failure from error
        raise SourceError(
            f"{path}: pynwb cannot construct this file{_named(types)}: {_last_words(error)}; leave reader=pynwb out to "
            "read it without"
        ) from error
    if failure is None:
        return content
    what = f"built unlike the NWB schemas known here ({_last_words(failure)})"
    return FileContent(**{**vars(content), "problems": [*content.problems, Problem("file", what, "read with pynwb")]})


def _read_extensions(path: str, file: Any, types: TypeTree, content: FileContent) -> tuple[FileContent, str]:
    """Let pynwb have a file of which nothing is known but extensions; where it fails, say so and keep what was read."""
    try:
        return _read_with_pynwb(path, file, types), ""
    except Exception as error:  # noqa: BLE001  (whatever pynwb raises: the refusal carries its words)
        held = [f"{table.path} ({table.types[0]})" for table in content.tables if table.types]
        held += [f"{place} ({kind})" for place, kind in content.other.items()]
        return content, (
            f"pynwb cannot construct this file{_named(types)}: {_last_words(error)}. No units, series or intervals "
            f"could be read without it either (found: {', '.join(held[:8]) or 'nothing'}): install the release of "
            "pynwb or of the extension that wrote the file"
        )


def _read_with_pynwb(path: str, file: Any, types: TypeTree) -> FileContent:
    from neurofm_shards_nwb.pynwb_reader import open_io, read_with_pynwb  # noqa: PLC0415  (slow to import)

    types.check_schemas()
    io = open_io(file)

    def close() -> None:
        io.close()
        file.close()

    return read_with_pynwb(path, io, close)


def _last_words(error: Exception) -> str:
    """Return the reason alone: hdmf puts it behind a print of the whole builder."""
    reason = error.args[-1] if error.args else error
    return f"{type(error).__name__}: {text(str(reason))[:300]}"


def _named(types: TypeTree) -> str:
    names = ", ".join(f"{name} {version}" for name, version in sorted(types.extensions.items()))
    return f", with extension {names}" if names else ""


def _open_zarr(path: str) -> OpenedFile:
    from neurofm_shards_nwb.pynwb_reader import open_zarr  # noqa: PLC0415  (needs the extra)

    content = open_zarr(path)
    mark = folder_fingerprint(path)
    recording = NwbRecording(path, content.version, content.facts, describe(content), mark, content.close)
    return OpenedFile(recording, f"{Path(path).name} (NWB {content.version}, Zarr)", "", content)


def _refused(reason: str) -> Problem:
    return Problem("file", reason, "convert refuses this file", "error")


def _refusal(path: str, opened: OpenedFile) -> SourceError | None:
    if opened.refusal:
        return SourceError(f"{path}: {opened.refusal}")
    if opened.recording.streams:
        return None
    version = opened.title.removeprefix(Path(path).name)
    return NothingToConvertError(f"{path}: nothing to convert{version}: {_what_there_is(opened)}")


def _what_there_is(opened: OpenedFile) -> str:
    content = opened.content
    if content is None:
        return f"looked for {_LOOKED_FOR_1}; found none"
    paths = {series.path for series in content.series} | {table.path for table in content.tables}
    found = [f"{series.path} ({series.types[0]})" for series in content.series]
    found += [f"{table.path} ({table.types[0]})" for table in content.tables]
    found += [f"{place} ({kind})" for place, kind in content.other.items()]
    left = [f"{problem.where}: {problem.what}" for problem in opened.recording.problems if problem.where in paths]
    why = f"; left out: {'; '.join(left[:_SHOWN])}" if left else ""
    return f"looked for {LOOKED_FOR}; found {', '.join(found[:_SHOWN]) if found else 'metadata only'}{why}"


def _not_converted(opened: OpenedFile) -> dict[str, str]:
    """Return what a file holds beside its streams."""
    if opened.content is None:
        return {}
    converted = {stream.path for stream in opened.recording.streams}
    tables = {
        table.path: f"{(*table.types, 'table')[0]}, {counted(len(table), 'row')}: {', '.join(table.columns)}"
        for table in opened.content.tables
    }
    series = {item.path: item.types[0] for item in opened.content.series}
    return {path: what for path, what in sorted((tables | series).items()) if path not in converted}


def _only(paths: Sequence[str]) -> str:
    if len(paths) != 1:
        raise SourceError(f"an NWB input is one file, not {len(paths)}: {', '.join(paths[:3])}")
    return paths[0]
