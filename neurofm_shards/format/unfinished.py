"""The marks that writers leave in a folder until its data set is whole, and what each of them means to a reader."""

from __future__ import annotations

from pathlib import Path

from neurofm_shards.format.files import SIDECAR_DIR
from neurofm_shards.format.manifest import MANIFEST_NAME

#: Names the finished shards of a conversion; removed after the manifest was written.
JOURNAL_NAME = "journal"
#: How journals of the parts of a conversion start; the rest is ``K-of-N``.
PART_JOURNAL_PREFIX = "journal-"
#: How files of a plan that is run in parts start.
PLAN_PREFIX = "plan"
#: A Python writer is writing here, or was when it was killed.
UNFINISHED_NAME = "unfinished"
#: Names the files of a deletion that is under way.
PENDING_DELETIONS_NAME = "doomed"
#: How folders start that hold files to be moved into place as one step.
COMMITTED_PREFIX = "commit-"
#: How folders start in which shards are written before they are moved into place.
STAGING_PREFIX = "staging-"
#: A folder with the form of a data set, in which the one that replaces the present one is written.
REPLACEMENT_NAME = "replacement"
#: A folder of shards that ``repair`` has replaced.
REPLACED_NAME = "replaced"


def belongs_to_conversion(name: str) -> bool:
    """Return whether a file of the hidden folder is part of the journal or of the plan of an unfinished conversion."""
    return name == JOURNAL_NAME or name.startswith((PART_JOURNAL_PREFIX, PLAN_PREFIX))


def pending_step(folder: Path) -> str | None:
    """Return the interrupted step that must be finished or given up before anything is added to a data set."""
    sidecars = folder / SIDECAR_DIR
    for name, what in (
        (JOURNAL_NAME, "an addition to"),
        (f"{COMMITTED_PREFIX}*", "a drop, a merge or an overwriting of"),
        (REPLACEMENT_NAME, "an overwriting of"),
    ):
        if any(sidecars.glob(name)):
            return f"{what} {folder} was interrupted: finish it as it was begun, or run `neurofm-shards repair`"
    return None


def why_unfinished(folder: Path) -> str | None:
    """Return the interrupted step of a folder that has no manifest, and the remedy; None where there is none.

    Shards may lie in such a folder, but they are no data set.
    """
    sidecars = folder / SIDECAR_DIR
    if (sidecars / JOURNAL_NAME).exists():
        return (
            f"{folder} is an unfinished conversion: it has a journal but no {MANIFEST_NAME}. Finish it by running the "
            "same conversion again with mode='resume'"
        )
    if any(sidecars.glob(f"{COMMITTED_PREFIX}*")):
        return (
            f"{folder} is an unfinished merge or overwriting: everything is written, but not yet in its place. "
            "`neurofm-shards repair` finishes it"
        )
    if (sidecars / PENDING_DELETIONS_NAME).exists():
        return (
            f"{folder} is an unfinished deletion: what was here was being replaced. Run the conversion that replaces "
            "it again with mode='overwrite'"
        )
    if (sidecars / UNFINISHED_NAME).exists():
        return (
            f"{folder} is an unfinished data set: the program that wrote it was interrupted before finalize(). Write "
            "it again with overwrite=True, or keep what is there with `neurofm-shards repair`"
        )
    return None
