"""The converter for NWB files, file by file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from typing_extensions import Self

from neurofm_shards.convert.config import ConversionConfig
from neurofm_shards.convert.executors import make_executor
from neurofm_shards.convert.identity import identity
from neurofm_shards.convert.inputs import find_inputs
from neurofm_shards.convert.planning import ConversionPlan, InputPlan, check_config, combine, plan_append, plan_inputs
from neurofm_shards.convert.progress import Observer
from neurofm_shards.convert.running import ShardRun
from neurofm_shards.convert.session import commit
from neurofm_shards.errors import ConfigError, NothingToConvertError
from neurofm_shards.format.files import OutputLock
from neurofm_shards.format.manifest import Manifest, summary
from neurofm_shards.format.metadata_table import sidecar_paths
from neurofm_shards.format.unfinished import JournalHeader, remove_journal
from neurofm_shards.plugins.registry import registry
from neurofm_shards.writing.output_folder import Output


class NWBToWebDatasetConverter:
    """Turns NWB files into one data set, or adds them to one; a context manager.

    Like the other Python writers it adds to a data set that is in the folder already, with a warning; files that it
    holds are recognised by their content and left out. ``overwrite=True`` replaces it when the new one is whole.

    Samples are numbered in the order of the calls, and a shard is written as soon as it is full, so the result is the
    same as that of one call, or of ``neurofm-shards convert``, with all files.

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
    codec : str
        ``"pyd"`` or ``"npy"``.
    workers : int
        Processes that write shards.
    overwrite : bool
        Replace a data set that is there.
    on_error : {"fail", "skip"}
        Raise at a file that fails, or leave it out and record it in the manifest.
    durable : bool
        Sync each shard to the disk before it counts as written.
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
        codec: str = "pyd",
        workers: int = 1,
        overwrite: bool = False,
        on_error: Literal["fail", "skip"] = "fail",
        durable: bool = False,
        source: dict[str, Any] | None = None,
        **windows: Any,
    ) -> None:
        registry().sources.get("nwb")
        sized = {"bin_size_ms": bin_size_ms, "sequence_length": sequence_length, "modalities": modalities, **windows}
        if "stride" not in windows:
            sized["overlap"] = overlap
        self.config = ConversionConfig.of(
            {
                "format": "nwb",
                "shard_size": shard_size,
                "compression": compression,
                "codec": codec,
                "source": source or {},
                "windows": sized,
                "on_error": on_error,
                "durable": durable,
            }
        )
        check_config(self.config)
        self._output = self._written = Output(Path(output_dir))
        self._overwrite = overwrite
        self._workers = max(workers, 1)
        self._planned: list[InputPlan] = []
        self._stack = ExitStack()
        self._base: Manifest | None = None
        self._run: ShardRun | None = None
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
            raise ConfigError("this converter is finished; make another one, or add files with convert --append")
        self._run = self._run or self._start()
        named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        inputs = find_inputs(named, "nwb", self.config.source)
        new = plan_inputs(inputs, self.config, self._pool, workers=self._workers, observer=Observer())
        plan = self._plan([*self._planned, *new])
        self._planned += new
        if plan is not None:
            full = plan.total_samples // self.config.shard_size
            self._run.run(islice(plan.tasks(), full), plan.columns)
        return sum(item.plan.num_samples for item in new if item.plan is not None)

    def finalize(self) -> dict[str, Any]:
        """Write what is left and the manifest; returns the summary (``total_samples``, ``total_shards``, ...).

        Raises
        ------
        NothingToConvertError
            No file was converted.
        """
        if self._summary is None:
            self._summary = self._finish()
        return self._summary

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finalize()
        elif self._run is not None and self._summary is None:
            self._run.close()
            self._discard(self._run)
            self._stack.close()

    def _start(self) -> ShardRun:
        self._stack.enter_context(OutputLock(self._output.folder))
        try:
            self._output.clean()
            if self._overwrite and self._output.is_ours():
                self._written = self._output.begin_overwriting()
            self._base = self._written.manifest()
            if self._base is None:
                self._written.check_free()
            else:
                self._output.check_not_being_replaced()
                warnings.warn(
                    f"{self._output.folder} already holds a data set of {self._base.total_samples:,} samples: new "
                    "files are added to it (overwrite=True would replace it)",
                    UserWarning,
                    stacklevel=3,
                )
            self._pool = self._stack.enter_context(make_executor(None, self._workers))
            plan = ConversionPlan(self.config, (), (), ())
            kind = "convert" if self._base is None else "append"
            header = JournalHeader(kind, identity(plan), 0, self.config.durable)
            return ShardRun(self._written, self.config, header, None, self._pool, self._workers, Observer())
        except BaseException:
            self._stack.close()
            raise

    def _finish(self) -> dict[str, Any]:
        if self._run is None:
            raise NothingToConvertError("no NWB file was given: call convert_nwb_file first")
        with self._stack:
            plan = self._plan(self._planned)
            if plan is not None:
                self._run.run(plan.tasks(), plan.columns)
            self._run.close()
            manifest = self._commit(plan, self._run)
            self._output.finish_overwriting(self._written, durable=self.config.durable)
        result = summary(self._output.folder, manifest)
        registry().notify("neurofm_conversion_finished", summary=result)
        return result

    def _plan(self, planned: list[InputPlan]) -> ConversionPlan | None:
        """Plan all files so far; None when there is nothing to do."""
        if self._base is not None:
            return plan_append(self._base, planned, self.config, alike=False)
        return combine(planned, self.config) if any(item.plan is not None for item in planned) else None

    def _commit(self, plan: ConversionPlan | None, run: ShardRun) -> Manifest:
        if plan is not None:
            return commit(self._written, plan, run.lines, self._base)
        if self._base is None:
            return commit(self._written, combine(self._planned, self.config), run.lines, None)
        remove_journal(self._output.sidecars)
        return self._base

    def _discard(self, run: ShardRun) -> None:
        """Take back what was written: all of it, or what was added to a data set."""
        if self._written != self._output:
            self._output.give_up_replacement()
            return
        if self._base is None:
            self._output.delete()
            return
        for line in run.lines.values():
            if line["shard"] is not None:
                shard = self._output.folder / line["shard"]["shard_name"]
                for path in (shard, *sidecar_paths(shard)):
                    path.unlink(missing_ok=True)
        remove_journal(self._output.sidecars)
