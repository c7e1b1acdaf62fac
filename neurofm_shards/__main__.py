"""``python -m neurofm_shards`` and the two installed commands."""

from __future__ import annotations

import sys

from neurofm_shards.cli.main import run


def main() -> int:
    """Run ``neurofm-shards`` with the process's arguments."""
    return run(sys.argv[1:])


def convert_main() -> int:
    """Run ``convert_to_shards``, which is ``neurofm-shards convert``."""
    return run(["convert", *sys.argv[1:]], program="convert_to_shards")


if __name__ == "__main__":
    sys.exit(main())
