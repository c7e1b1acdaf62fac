"""The converter for NWB files, file by file."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal

from typing_extensions import Self

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.session import ConversionSession, IncrementalConversion
from neurofm_shards.errors import ConfigError, NothingToConvertError
from neurofm_shards.plugins.registry import registry


class NWBToWebDatasetConverter:
    """Turns NWB files into one data set, or adds them to one; a context manager.

    Like the other Python writers it adds to a data set that is in the folder already, with a warning; files that it
    holds are recognised by their content and left out. ``overwrite=True`` replaces it when the new one is whole.

    Samples are numbered in the order of the calls, and a shard is written as soon as it is full, so the result is the
    same as that of one call, or of ``neurofm-shards convert``, with all files. A converter that is left, deleted or
    forgotten before :meth:`finalize` takes back what it wrote.

    Parameters
    ----------
    output_dir : path
        Where the data set goes.
    shard_size : int
        Samples per shard.
    modalities : list of str, optional
        What to take (``"spikes"``, ``"lfp"``, ``"behavior"``, ``"ophys"``, ``"events"``); by default what is present. A
        named modality that a file lacks is an error (see ``missing`` among the window options).
    bin_size_ms : float
        Width of a bin in milliseconds.
    sequence_length : int
        Bins in a window.
    overlap : float
        Share of a window that the next one repeats.
    compression : str
        ``"none"``, ``"gz"``, ``"bz2"``, ``"xz"``, or what a plugin offers.
    codec : str, optional
        ``"pyd"`` (the default for windows) or ``"npy"`` (for recordings).
    workers : int
        Processes that write shards.
    overwrite : bool
        Replace a data set that is there.
    layout : {"windows", "recordings"}
        Cut recordings into windows, or store them as they are, to be cut when they are loaded; then the arguments that
        say how to cut are not used, and further window options are refused.
    on_error : {"fail", "skip"}
        Raise at a file that fails, or leave it out and record it in the manifest.
    durable : bool
        Sync each shard to the disk before it counts as written.
    progress : bool
        Whether to draw bars, on a terminal or in a notebook.
    source : dict, optional
        Options of the NWB plugin.
    **windows
        Further :class:`~neurofm_shards.recordings.options.WindowOptions`.

    Raises
    ------
    MissingPluginError
        No source named ``nwb`` is installed; the message says how to get it.

    Examples
    --------
    >>> converter = NWBToWebDatasetConverter("./shards", shard_size=1000)  # doctest: +SKIP
    >>> converter.convert_nwb_files(["file1.nwb", "file2.nwb"])  # doctest: +SKIP
    >>> converter.finalize()["total_samples"]  # doctest: +SKIP
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        shard_size: int = 1000,
        modalities: Sequence[str] | None = None,
        bin_size_ms: float = 10.0,
        sequence_length: int = 100,
        overlap: float = 0.5,
        *,
        compression: str = "none",
        codec: str | None = None,
        workers: int = 1,
        overwrite: bool = False,
        layout: Literal["windows", "recordings"] = "windows",
        on_error: Literal["fail", "skip"] = "fail",
        durable: bool = False,
        progress: bool = False,
        source: dict[str, Any] | None = None,
        **windows: Any,
    ) -> None:
        registry().sources.get("nwb")
        sized = {"bin_size_ms": bin_size_ms, "sequence_length": sequence_length, "modalities": modalities}
        if "stride" not in windows:
            sized["overlap"] = overlap
        options: dict[str, Any] = {
            "format": "nwb",
            "layout": layout,
            "shard_size": shard_size,
            "compression": compression,
            "source": source or {},
            "windows": windows if layout == "recordings" else {**sized, **windows},
            "on_error": on_error,
            "durable": durable,
        }
        if codec is not None:
            options["codec"] = codec
        self.config = ConversionConfig.of(options)
        self._session = ConversionSession(output_dir, self.config, workers=max(workers, 1), progress=progress)
        self._overwrite = overwrite
        self._conversion: IncrementalConversion | None = None
        self._summary: dict[str, Any] | None = None

    def convert_nwb_file(self, path: str | os.PathLike[str]) -> int:
        """Add one file; returns the number of its samples.

        Raises
        ------
        SourceError
            The file cannot be converted. The files before it stay converted.
        """
        return self.convert_nwb_files([path])

    def convert_nwb_files(self, paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> int:
        """Add files, in this order (patterns and folders are expanded); returns the number of their samples."""
        if self._summary is not None:
            raise ConfigError("this converter is finished; make another one, and its files are added")
        conversion = self._conversion or self._start()
        try:
            return conversion.add([paths] if isinstance(paths, (str, os.PathLike)) else list(paths))
        except BaseException:
            if conversion.is_empty:
                self._give_up()
            raise

    def finalize(self) -> dict[str, Any]:
        """Write what is left and the manifest; returns the summary (``total_samples``, ``total_shards``, ...).

        Raises
        ------
        NothingToConvertError
            No file was converted.
        """
        if self._summary is None:
            if self._conversion is None:
                raise NothingToConvertError("no NWB file was given: call convert_nwb_file first")
            try:
                self._summary = self._conversion.finish()
            except BaseException:
                self._give_up()
                raise
            self._take_back.detach()
            self._session.close()
        return self._summary

    def _give_up(self) -> None:
        """Leave the folder as it was before."""
        self._conversion = None
        self._take_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finalize()
        elif self._conversion is not None and self._summary is None:
            self._give_up()

    def _start(self) -> IncrementalConversion:
        self._conversion = IncrementalConversion(self._session.open(), overwrite=self._overwrite)
        self._take_back = weakref.finalize(self, _take_back, self._conversion, self._session, os.getpid())
        return self._conversion


def _take_back(conversion: IncrementalConversion, session: ConversionSession, process: int) -> None:
    """Leave the folder as it was before; a copy of the converter in a forked process leaves it alone."""
    if os.getpid() == process:
        try:
            conversion.discard()
        finally:
            session.close()
