"""Repairs a data set that its other writers are kept away from meanwhile."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from neurofm_shards.convert.output import Output
from neurofm_shards.errors import InputNotFoundError
from neurofm_shards.shards.card import CARD_NAME, is_our_card, write_card
from neurofm_shards.shards.lock import OutputLock
from neurofm_shards.shards.repair import repair_dataset
from neurofm_shards.shards.report import Finding, Report


def repair(folder: str | os.PathLike[str]) -> Report:
    """Finish or undo what was interrupted, then rebuild and save what is damaged.

    A drop or merge that was decided is finished; an addition that was not is given up, and its shards are deleted.

    Parameters
    ----------
    folder : path
        The data set.

    Returns
    -------
    Report
        See :func:`~neurofm_shards.shards.repair.repair_dataset`.

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
        report = repair_dataset(output.folder)
    if not given_up:
        return report
    what = f"an addition of which {given_up:,} shards were written was never finished"
    done = Finding("info", "", "", what, "they were deleted; convert --append adds them again")
    return replace(report, findings=(done, *report.findings))
