"""The harness's side of the conversation with a contender."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

CONTENDERS = Path(__file__).resolve().parent.parent / "contenders"

_QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


class ContenderError(RuntimeError):
    """A contender could not do what it was asked to."""


class Client:
    """A contender's script, running in its environment until closed.

    Parameters
    ----------
    name : str
        As in tables.
    script : str
        File name in ``contenders``.
    python : str
        The environment's interpreter.
    log : path
        Where standard error goes.

    Attributes
    ----------
    slug : str
        A name for folders.
    """

    def __init__(self, name: str, script: str, python: str, log: Path) -> None:
        self.name = name
        self.slug = script.removesuffix(".py")
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [python, str(CONTENDERS / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=log.parent,
            env={**os.environ, **_QUIET},
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises
        ------
        ContenderError
            It raised, or died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code, said = self._process.wait(), Path(self._log.name).read_text().strip().splitlines()[-3:]
            raise ContenderError(f"{self.name} ended with {code}: " + " / ".join(said))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
