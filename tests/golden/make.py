"""Make the golden digests: ``python tests/golden/make.py`` says what differs, ``--write`` rewrites ``digests.json``.

The digests say that bytes on disk, splits, orders and states are today what they were. A commit that means to change
one of them rewrites the file, and says in CHANGELOG.md what changed and why. All plugins must be installed, and
the real recordings be there (``NEUROFM_SHARDS_DATA``, else ``../shared/data`` from the project's root).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from golden_cases import DIGESTS, all_cases, differing, shared_folder, write_data_sets


def made(cases, scratch):
    """Return the digests of all cases."""
    return {name: make(Path(tempfile.mkdtemp(dir=scratch))) for name, make in cases.items()}


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
