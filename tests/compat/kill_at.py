"""A plugin that kills its process: behind the second shard, or at the first deletion of a shard (``KILL_AT``)."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from neurofm_shards import hookimpl

committed = []


@hookimpl
def neurofm_shard_committed(shard):
    committed.append(shard)
    if os.environ["KILL_AT"] == "second shard" and len(committed) == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def on_removal(event, arguments):
    name = Path(os.fspath(arguments[0])).name if event == "os.remove" else ""
    if name.startswith("shard_") and name.endswith(".tar"):
        os.kill(os.getpid(), signal.SIGKILL)


if os.environ["KILL_AT"] == "first deletion":
    sys.addaudithook(on_removal)
