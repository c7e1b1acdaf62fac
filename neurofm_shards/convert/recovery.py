"""Repairs a data set that its other writers are kept away from meanwhile."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from neurofm_shards.convert.output import Output
from neurofm_shards.errors import InputNotFoundError
from neurofm_shards.format.card import CARD_NAME, is_our_card, write_card
from neurofm_shards.maintenance.repair import repair_dataset
from neurofm_shards.shards.lock import OutputLock
from neurofm_shards.shards.report import Finding, Report


def repair(folder: str | os.PathLike[str]) -> Report:
    """Finish or undo what was interrupted, then rebuild and save what is damaged.

    A drop, merge or overwriting that was decided is finished. An addition or overwriting that was not is given up, and
    its shards are deleted.

    Parameters
    ----------
    folder : path
        The data set.

    Returns
    -------
    Report
        See :func:`~neurofm_shards.maintenance.repair.repair_dataset`.

    Raises
    ------
    OutputLockedError
        The data set is being written.
    """
    output = Output(Path(folder))
    if not output.folder.is_dir():
        raise InputNotFoundError(f"there is no folder {folder}")
    with OutputLock(output.folder):
        output.clean()
        given_up = output.give_up_addition()
        manifest = output.manifest() if given_up else None
        if manifest is not None and is_our_card(output.folder / CARD_NAME):
            write_card(output.folder, manifest, durable=True)  # it may speak of the addition already
        is_kept = output.give_up_replacement()
        report = repair_dataset(output.folder)
    done = []
    if given_up:
        what = f"an addition of which {given_up:,} shards were written was never finished"
        done.append(Finding("info", "", "", what, "they were deleted; convert --append adds them again"))
    if is_kept:
        what = "a data set that was to replace this one was never finished"
        done.append(Finding("info", "", "", what, "what was written of it was deleted, and this one stays"))
    return replace(report, findings=(*done, *report.findings))
