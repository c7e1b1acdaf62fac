"""Opens a file with the reader it needs: pynwb, h5py where pynwb cannot construct it, or the reader of NWB 1.x."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neurofm_shards.errors import NeurofmShardsError, SourceError
from neurofm_shards.types import Problem
from neurofm_shards_nwb.arrays import text
from neurofm_shards_nwb.content import FileContent
from neurofm_shards_nwb.h5_reader import read_with_h5py
from neurofm_shards_nwb.identity import fingerprint, folder_fingerprint
from neurofm_shards_nwb.links import external_links, linked_files, mark_broken, missing_links, missing_object
from neurofm_shards_nwb.nwb1_reader import facts_1, streams_1, version_1
from neurofm_shards_nwb.pynwb_io import open_io
from neurofm_shards_nwb.pynwb_reader import read_with_pynwb
from neurofm_shards_nwb.recording import NwbRecording, describe
from neurofm_shards_nwb.storage import is_zarr_store, open_hdf5
from neurofm_shards_nwb.types_2x import TypeTree

Reader = Literal["auto", "pynwb", "h5py"]


@dataclass(frozen=True)
class Opened:
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


def open_any(path: str, reader: Reader = "auto") -> Opened:
    """Open an NWB file or store.

    Raises
    ------
    InputNotFoundError, SourceError
        It cannot be opened, or is not NWB.
    """
    if is_zarr_store(path):
        return _open_zarr(path)
    file = open_hdf5(path)
    try:
        return _open_hdf5(path, file, reader)
    except NeurofmShardsError:
        file.close()
        raise
    except Exception as error:
        file.close()
        raise SourceError(
            f"{path} cannot be understood ({_last_words(error)}): parts of it are damaged or not what the NWB schema "
            "says; get it again, or check it with pynwb.validate"
        ) from error


def _open_hdf5(path: str, file: Any, reader: Reader) -> Opened:
    name = Path(path).name
    links = list(external_links(file))
    mark = fingerprint(path, linked_files(path, links))
    old = version_1(file)
    if old:
        described = streams_1(path, file)
        return Opened(
            NwbRecording(path, old, facts_1(file), described, mark, file.close),
            f"{name} (NWB {old}, read without pynwb)",
        )
    if "nwb_version" not in file.attrs:
        held = ", ".join(sorted(file)[:8]) or "nothing"
        raise SourceError(
            f"{path} is HDF5 but not NWB (its root has no nwb_version; it holds {held}): give its format with --format"
        )
    types = TypeTree(file)
    missing = missing_links(links)
    content, failure = _read(path, file, reader, types)
    content = mark_broken(content, missing)
    streams, problems = describe(content)
    refusal = missing_object(content, missing)
    if failure:
        failure = f"pynwb cannot construct this file{_named(types)}: {failure}"
        consequence = "read with h5py, the plain parts only"
        problems.insert(0, Problem("file", failure, consequence, "warning" if streams else "error"))
        refusal = refusal or ("" if streams else _nothing_plain(failure, content))
    if refusal:
        problems.insert(0, Problem("file", refusal, "convert refuses this file", "error"))
    recording = NwbRecording(path, content.version, content.facts, (streams, problems), mark, content.close)
    return Opened(recording, f"{name} (NWB {content.version}{_named(types)})", refusal, content)


def _read(path: str, file: Any, reader: Reader, types: TypeTree) -> tuple[FileContent, str]:
    """Read with pynwb; where it fails, with h5py, together with what pynwb said."""
    if reader == "h5py":
        return read_with_h5py(path, file, types), ""
    io = open_io(file)
    try:
        return read_with_pynwb(path, io, lambda: _close(io, file)), ""
    except Exception as error:
        if reader == "pynwb":
            raise SourceError(
                f"{path}: pynwb cannot construct this file{_named(types)}: {_last_words(error)}; --reader auto reads "
                "its plain parts"
            ) from error
        return read_with_h5py(path, file, types), _last_words(error)


def _close(io: Any, file: Any) -> None:
    io.close()
    file.close()


def _last_words(error: Exception) -> str:
    """Return the reason alone: hdmf puts it behind a print of the whole builder."""
    reason = error.args[-1] if error.args else error
    return f"{type(error).__name__}: {text(str(reason))[:300]}"


def _named(types: TypeTree) -> str:
    names = ", ".join(f"{name} {version}" for name, version in sorted(types.extensions.items()))
    return f", with extension {names}" if names else ""


def _nothing_plain(failure: str, content: FileContent) -> str:
    held = [f"{table.path} ({table.types[0]})" for table in content.tables if table.types]
    held += [f"{place} ({kind})" for place, kind in content.other.items()]
    return (
        f"{failure}. No units, series or intervals could be read without it either (found: "
        f"{', '.join(held[:8]) or 'nothing'}): install the release of pynwb or of the extension that wrote the file"
    )


def _open_zarr(path: str) -> Opened:
    from neurofm_shards_nwb.zarr_store import open_zarr  # noqa: PLC0415  (needs the extra)

    content = open_zarr(path)
    described = describe(content)
    mark = folder_fingerprint(path)
    recording = NwbRecording(path, content.version, content.facts, described, mark, content.close)
    return Opened(recording, f"{Path(path).name} (NWB {content.version}, Zarr)", "", content)
