"""External links: data that lie in other files, which may not be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def missing_link(group: Any, name: str) -> str:
    """Say which file is missing when a member of a group is an external link into it; empty when nothing is.

    Parameters
    ----------
    group : h5py.Group
        Where the link is.
    name : str
        The link's name.
    """
    import h5py  # noqa: PLC0415  (only when a file is opened)

    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.ExternalLink) or group.get(name) is not None:
        return ""
    where = f"{group.name}/{name}".strip("/")
    return (
        f"{where} is a link to {link.path} in {link.filename}, which cannot be opened: put that file where the "
        "link says (beside this one, as a rule), or leave the modality out"
    )


def external_links(group: Any) -> Iterator[tuple[Any, str, Any]]:
    """Give ``(group, name, link)`` for every external link of a file; other files are not searched."""
    import h5py  # noqa: PLC0415  (only when a file is opened)

    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            yield group, name, link
        elif isinstance(link, h5py.HardLink) and name != "specifications" and isinstance(group[name], h5py.Group):
            yield from external_links(group[name])


def linked_files(path: str, file: Any) -> list[str]:
    """Return the other files that a file's external links lead to and that are there, sorted."""
    folder = Path(path).parent
    names = {str(folder / link.filename) for _, _, link in external_links(file)}
    return sorted(name for name in names if Path(name).is_file())
