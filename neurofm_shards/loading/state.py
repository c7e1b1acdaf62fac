"""Saved states: one epoch and one position, with the identity of what they belong to; and checkpoint files.

A checkpoint file is written while a loader is iterated, and when a signal ends the process.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeAlias

from neurofm_shards.errors import ConfigError, FormatError, StateError
from neurofm_shards.format.files import open_regular, remove_stale_partials, write_atomically
from neurofm_shards.loading.plans.plan import EpochPlan
from neurofm_shards.values import loads_unique

STATE_VERSION = 1

#: A state is smaller than this as JSON; a checkpoint file that is larger is none of ours.
MAX_STATE_BYTES = 1024

_KEYS = {"version", "epoch", "position", "shard_idx", "sample_offset", "identity"}
#: What the settings of a plan are called in messages.
LABELS = {
    "dataset": "the data set's fingerprint",
    "shards": "the number of shards",
    "samples": "the number of samples",
    "subset": "the selected samples",
    "order_version": "the version of the ordering algorithm",
    "shuffle": "shuffle",
    "shuffle_shards": "shuffle_shards",
    "buffer_size": "buffer_size",
    "seed": "seed",
}
OnSignal: TypeAlias = Literal["checkpoint"]

#: What Slurm and clouds send before they end a process.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True)
class LoaderState:
    """Where a run stands.

    Attributes
    ----------
    epoch : int
        Epochs finished so far.
    position : int
        Samples of this epoch's global order that were delivered to the training loop, over all ranks.
    identity : mapping
        See :meth:`~neurofm_shards.loading.plans.plan.EpochPlan.identity`.
    shard_idx : int
        The shard of the next sample; -1 where there is none. For the reader only.
    worker : (int, int)
        Which of how many DataLoader workers stands there; (0, 1) outside of workers.
    """

    epoch: int
    position: int
    identity: Mapping[str, Any]
    shard_idx: int = -1
    worker: tuple[int, int] = (0, 1)

    @classmethod
    def of(cls, plan: EpochPlan, epoch: int, position: int) -> LoaderState:
        """Describe where a run over ``plan`` stands; the end of an epoch is the start of the next."""
        if plan.finished(epoch, position):
            epoch, position = epoch + 1, 0
        return cls(epoch, position, plan.identity(), plan.shard_at(epoch, position))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: the fields, ``sample_offset`` (the position) and ``version``."""
        found = {"version": STATE_VERSION, "sample_offset": self.position, **asdict(self), "worker": [*self.worker]}
        if self.worker == (0, 1):
            del found["worker"]
        return found

    @classmethod
    def from_dict(cls, found: Any) -> LoaderState:
        """Make a state from a dict of :meth:`to_dict` (raises StateError)."""
        if not isinstance(found, Mapping) or _KEYS - set(found):
            raise StateError("this is not the state of a loader: it needs the keys " + ", ".join(sorted(_KEYS)))
        if found["version"] != STATE_VERSION:
            raise StateError(
                f"the state has version {_short(found['version'])} and this release reads version {STATE_VERSION}: "
                "resume with the release that wrote it, or start anew"
            )
        epoch, position, shard = (_whole(found, key) for key in ("epoch", "position", "shard_idx"))
        if found["sample_offset"] != position or not isinstance(found["identity"], Mapping):
            raise StateError("the state contradicts itself: sample_offset and position differ, or identity is missing")
        return cls(epoch, position, dict(found["identity"]), shard, _worker(found.get("worker", [0, 1])))

    def resume(self, plan: EpochPlan) -> tuple[int, int]:
        """Return the epoch and position at which a run over ``plan`` goes on.

        The state fits when the plan's identity is the saved one. Where samples were only appended since, it still
        fits if no position changed its meaning: in storage order, or at the start of an epoch.

        Raises
        ------
        StateError
            When the state belongs to another data set, another version of it, or other settings; says what differs.
        """
        identity = json.loads(json.dumps(plan.identity()))
        saved = json.loads(json.dumps(dict(self.identity)))
        if saved != identity and not self._appended(plan, saved):
            raise StateError(_of_another_run(saved, identity))
        if self.position > plan.length(self.epoch):
            raise StateError(
                f"the state stands at sample {self.position:,} of epoch {self.epoch}, which has only "
                f"{plan.length(self.epoch):,}"
            )
        if plan.finished(self.epoch, self.position):
            return self.epoch + 1, 0
        return self.epoch, self.position

    def _appended(self, plan: EpochPlan, saved: dict[str, Any]) -> bool:
        """Return whether the plan's data starts with the saved data and the position means the same in both."""
        shards = saved.get("shards")
        if not isinstance(shards, int) or plan.prefix_identity(shards) != saved:
            return False
        if plan.appendable or self.position == 0:
            return True
        raise StateError(
            f"samples were appended to the data set since this state was saved, at sample {self.position:,} of epoch "
            f"{self.epoch}: a shuffled epoch cannot go on in another order. Finish the epoch with the first {shards} "
            f"shards alone, or start at the next epoch with set_epoch({self.epoch + 1})"
        )


def save_state(path: str | os.PathLike[str], state: LoaderState) -> None:
    """Write a checkpoint file atomically: after a crash there is the old one or the new one, whole."""
    text = json.dumps(state.to_dict(), separators=(",", ":"))
    if len(text) >= MAX_STATE_BYTES:
        raise StateError(f"the state takes {len(text)} bytes; states are smaller than {MAX_STATE_BYTES}")
    write_atomically(Path(path), [text.encode()], durable=True)


def read_state(path: str | os.PathLike[str]) -> LoaderState:
    """Read a checkpoint file (raises StateError)."""
    path = Path(path)
    try:
        descriptor = open_regular(path)
    except FormatError as error:
        raise StateError(f"no checkpoint: {error}") from error
    with os.fdopen(descriptor, "rb") as file:
        raw = file.read(MAX_STATE_BYTES + 1)
    try:
        if len(raw) > MAX_STATE_BYTES:
            raise StateError(f"it is larger than {MAX_STATE_BYTES} bytes")
        return LoaderState.from_dict(loads_unique(raw.decode("ascii")))
    except (ValueError, RecursionError) as error:
        raise StateError(
            f"{path} is not a whole checkpoint ({_short(error)}): remove it to start anew, or restore it from a copy"
        ) from error


def _whole(found: Mapping[str, Any], key: str) -> int:
    """Return a whole number of at most 62 bits; only ``shard_idx`` may be -1."""
    value = found[key]
    if type(value) is not int or not (-1 if key == "shard_idx" else 0) <= value < 1 << 62:
        raise StateError(f"the state's {key} is {_short(value)}; a whole number was expected")
    return value


def _worker(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(type(part) is int for part in value):
        raise StateError(f"the state's worker is {_short(value)}; two whole numbers were expected")
    return value[0], value[1]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "..."


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the differences between two identities: name, value in one, value in the other."""
    return [
        (LABELS.get(name, name), _short(one.get(name, "not set")), _short(other.get(name, "not set")))
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]


def _of_another_run(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    data = any(saved.get(name) != now.get(name) for name in ("dataset", "shards", "samples", "datasets"))
    advice = "load the data set it was saved with" if data else "use the settings it was saved with"
    said = "; ".join(f"{label} was {before}, is {after}" for label, before, after in differences(saved, now))
    return f"the state belongs to another run: {said}. To resume, {advice}; or start anew"


class Checkpoint:
    """A checkpoint file, and when it is written.

    Parameters
    ----------
    path : path-like
        The file; means the same place after the working directory changed.
    on_signal : "checkpoint" or None
        Whether SIGTERM and SIGUSR1 write it, while an iteration runs.

    Raises
    ------
    ConfigError
        ``on_signal`` is something else.
    """

    def __init__(self, path: str | os.PathLike[str], on_signal: OnSignal | None = None) -> None:
        if on_signal not in (None, "checkpoint"):
            raise ConfigError(f"on_signal={on_signal!r}; choose 'checkpoint' or None")
        self.path = Path(path).absolute()
        self._on_signal = on_signal
        self._saved: LoaderState | None = None

    def save(self, state: LoaderState) -> None:
        """Write it, unless it says so already."""
        if state == self._saved and self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_state(self.path, state)
        self._saved = state

    def load(self) -> LoaderState | None:
        """Read it; None where there is none yet.

        Raises
        ------
        StateError
            See :func:`~neurofm_shards.loading.state.read_state`.
        """
        try:
            return read_state(self.path)
        except FileNotFoundError:
            return None

    def clear_up(self) -> None:
        """Remove what a process that was killed left of a checkpoint."""
        remove_stale_partials(self.path.parent, glob.escape(self.path.name))

    @contextmanager
    def during(self, state: Callable[[], LoaderState]) -> Iterator[None]:
        """Write it when the iteration inside ends, however it ends, and on signals."""
        handlers = SignalHandlers(lambda: self.save(state())) if self._on_signal else None
        try:
            yield
        finally:
            self.save(state())
            if handlers is not None:
                handlers.remove()


def make_checkpoint(path: str | os.PathLike[str] | None, on_signal: OnSignal | None) -> Checkpoint | None:
    """Return the checkpoint of a loader; None where no path is given."""
    if path is None and on_signal is not None:
        raise ConfigError(f"on_signal={on_signal!r} needs checkpoint_path=, the file to write")
    return None if path is None else Checkpoint(path, on_signal)


class SignalHandlers:
    """Does something on SIGTERM and SIGUSR1, and then what was done before.

    Parameters
    ----------
    action : callable
        Called in the main thread, before the handler that was there, or before the process ends.

    Raises
    ------
    ConfigError
        This is not the main thread, which alone may handle signals.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("on_signal='checkpoint': signals are handled in the main thread; iterate there")
        self._action: Callable[[], None] | None = action
        self._process = os.getpid()
        self._handler = self._handle  # one object, by which it is known again
        self._before: dict[int, Any] = {number: signal.signal(number, self._handler) for number in SIGNALS}

    def remove(self) -> None:
        """Put back the handlers that were there, where nobody came after this."""
        self._action = None
        if threading.current_thread() is not threading.main_thread():  # an iteration that was forgotten ends anywhere
            return
        for number, before in self._before.items():
            if signal.getsignal(number) is self._handler and before is not None:
                signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._action is not None and os.getpid() == self._process:
            self._action()
        before = self._before[number]
        if callable(before):
            before(number, frame)
        elif before != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
