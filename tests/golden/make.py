"""Make the golden digests: ``python tests/golden/make.py`` says what differs, ``--write`` rewrites ``digests.json``.

The digests say that bytes on disk, splits, orders and states are today what they were. A commit that means to change
one of them rewrites the file, and says in CHANGELOG.md what changed and why. All five plugins must be installed, and
the real recordings be there (``NEUROFM_SHARDS_DATA``, else ``../shared/data`` from the project's root).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from golden_arrays import array_cases
from golden_conversions import conversion_cases
from golden_loading import loading_cases, write_large, write_small

DIGESTS = Path(__file__).with_name("digests.json")


def write_data_sets(scratch):
    """Write the data sets that orders are made of."""
    return {
        "small": write_small(scratch / "small"),
        "other": write_small(scratch / "other", 90, 20),
        "large": write_large(scratch / "large"),
    }


def all_cases(shared, folders):
    """Return all cases by name: a function of an empty folder that returns digests."""
    parts = [conversion_cases(shared), array_cases(), loading_cases(shared, folders)]
    cases = {name: make for part in parts for name, make in part.items()}
    if len(cases) < sum(map(len, parts)):
        raise ValueError("two cases have one name")
    return cases


def shared_folder():
    """Return the folder that holds ``data`` and ``faults``."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("NEUROFM_SHARDS_DATA", default)).parent


def made(cases, scratch):
    """Return the digests of all cases."""
    return {name: make(Path(tempfile.mkdtemp(dir=scratch))) for name, make in cases.items()}


def differing(stored, found):
    """Return the names of entries that differ; what another version of a library compressed may differ."""
    if stored.get("library") != found.get("library"):
        return {"tar inside"} & {name for name in stored if stored[name] != found.get(name)}
    return {name for name in {*stored, *found} if stored.get(name) != found.get(name)}


def main():
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="rewrite digests.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        found = made(all_cases(shared_folder(), write_data_sets(Path(scratch))), Path(scratch))
    stored = json.loads(DIGESTS.read_text(encoding="utf-8")) if DIGESTS.exists() else {}
    changed = [name for name in {**stored, **found} if differing(stored.get(name, {}), found.get(name, {}))]
    for name in changed:
        print(f"{name}\n  was {stored.get(name)}\n  is  {found.get(name)}")
    if arguments.write:
        DIGESTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if changed and not arguments.write else 0


if __name__ == "__main__":
    sys.exit(main())
