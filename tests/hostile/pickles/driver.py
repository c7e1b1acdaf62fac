"""Decodes every pickle of the corpus in a process of its own and says what happened, as JSON lines.

Usage: ``python driver.py``. A crash, a hang or a flood of memory ends that process alone, and is reported.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
from pathlib import Path
from typing import Any

from neurofm_shards.codecs.pyd import PydCodec
from neurofm_shards.errors import FormatError

SECONDS = 20
MEMORY = 600 << 20


def attempt(payload: bytes) -> dict[str, Any]:
    """Decode, and record the outcome and everything the interpreter was asked to do meanwhile."""
    events: list[str] = []
    watching = True
    sys.addaudithook(lambda event, args: events.append(f"{event} {args!r:.80}") if watching else None)
    codec, view = PydCodec(), memoryview(payload)
    try:
        layout = codec.layout(view, len(payload))
        outcome = {"outcome": "value", "message": f"{type(codec.decode(view)).__name__}, layout {layout}"}
    except FormatError as error:
        outcome = {"outcome": type(error).__name__, "message": str(error)}
    watching = False
    return outcome | {"events": events, "layout": layout is not None}


def in_a_process(payload: bytes) -> dict[str, Any]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        result = attempt(payload)
        with os.fdopen(writing, "w") as pipe:
            json.dump(result, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        report = pipe.read()
    _, status, used = os.wait4(pid, 0)
    result = json.loads(report) if report else {"outcome": "died", "message": f"wait status {status}", "events": []}
    return result | {"status": status, "seconds": used.ru_utime + used.ru_stime}


if __name__ == "__main__":
    corpus = runpy.run_path(str(Path(__file__).with_name("corpus.py")))["HOSTILE"]
    for case, payload in corpus.items():
        print(json.dumps({"case": case} | in_a_process(payload)), flush=True)
