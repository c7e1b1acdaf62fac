"""Links: references to objects of the same file, and data that lie in other files, which may not be there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from neurofm_shards_nwb.content import FileContent

#: The group that a link lies in, its name there, and the link.
ExternalLink: TypeAlias = tuple[Any, str, Any]


def name_resolver(dataset: Any) -> Callable[[object], str] | None:
    """Return what turns the object references of a dataset into names, without opening what they point to.

    None where an array is no HDF5 dataset or holds no object references.
    """
    import h5py  # noqa: PLC0415  (only when a file is opened)

    if not isinstance(dataset, h5py.Dataset) or h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
        return None
    file = dataset.file.id

    def name_of(reference: object) -> str:
        path = h5py.h5r.get_name(reference, file) if reference else None
        return "" if path is None else str(path.decode("utf-8", "replace").rpartition("/")[2])

    return name_of


def missing_links(links: Iterable[ExternalLink]) -> dict[str, str]:
    """Return, for every external link that leads nowhere, its path and what to do about it."""
    missing = {}
    for group, name, link in links:
        if group.get(name) is None:
            path = f"{group.name}/{name}".strip("/")
            missing[path] = (
                f"{path} is a link to {link.path} in {link.filename}, which cannot be opened: put that file where the "
                "link says (beside this one, as a rule), or leave the modality out"
            )
    return missing


def mark_broken(content: FileContent, missing: dict[str, str]) -> FileContent:
    """Mark series whose values or time stamps are missing as broken (pynwb takes them for empty)."""
    return replace(
        content,
        series=[
            replace(series, broken=missing.get(f"{series.path}/data") or missing.get(f"{series.path}/timestamps") or "")
            for series in content.series
        ],
    )


def missing_object(content: FileContent, missing: dict[str, str]) -> str:
    """Return the message about a missing link that is no part of a series, so that what is lost cannot be known."""
    parts = {f"{series.path}/{name}" for series in content.series for name in ("data", "timestamps")}
    return next((message for path, message in missing.items() if path not in parts), "")


def external_links(group: Any) -> Iterator[ExternalLink]:
    """Give ``(group, name, link)`` for every external link of a file; other files are not searched."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            yield group, name, link
        elif isinstance(link, h5py.HardLink) and name != "specifications" and isinstance(group[name], h5py.Group):
            yield from external_links(group[name])


def linked_files(path: str, links: Iterable[ExternalLink]) -> list[str]:
    """Return the other files that a file's external links lead to and that are there, sorted."""
    folder = Path(path).parent
    names = {str(folder / link.filename) for _, _, link in links}
    return sorted(name for name in names if Path(name).is_file())
