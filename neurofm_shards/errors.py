"""Every error that neurofm_shards raises on purpose.

Each class is also a matching builtin, so that callers who know only Python can catch it, and each is built from ONE
message string: a ``torch.utils.data.DataLoader`` worker rebuilds an error as ``type(error)(message)``, and a process
pool pickles it. A message says what was found, where (file, member, column), and what to do next. Control characters in
names from a file are spelled out in it, so that no terminal obeys them.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterable
from typing import ClassVar


class NeurofmShardsError(Exception):
    """Base of all errors of this package.

    Attributes
    ----------
    exit_code : int
        What the command line returns when this error ends a command: 1 for findings and failed inputs, 2 for usage and
        configuration, 3 for plugins.
    """

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """Return the message, where ``KeyError`` would show its repr."""
        return visible(str(self.args[0])) if self.args else ""


class ConfigError(NeurofmShardsError, ValueError):
    """An option, argument or configuration file is wrong."""

    exit_code = 2


class InputNotFoundError(NeurofmShardsError, FileNotFoundError):
    """A named input or folder does not exist, or a pattern matches nothing."""

    exit_code = 2


class OutputExistsError(NeurofmShardsError, FileExistsError):
    """The output folder holds something that was not to be overwritten."""

    exit_code = 2


class OutputLockedError(NeurofmShardsError, BlockingIOError):
    """Another live process is writing to the output folder."""

    exit_code = 2


class PluginError(NeurofmShardsError, RuntimeError):
    """A plugin is broken, or two plugins claim one name."""

    exit_code = 3


class MissingPluginError(PluginError, LookupError):
    """Nothing is registered under the name asked for."""


class SourceError(NeurofmShardsError, ValueError):
    """An input cannot be read or converted."""


class AmbiguousStreamsError(SourceError):
    """Several streams of an input could be meant, and no option says which."""


class NothingToConvertError(SourceError):
    """An input is sound but holds nothing that was looked for."""


class InputChangedError(SourceError):
    """An input changed between planning and reading."""


class EncodeError(NeurofmShardsError, TypeError):
    """A value cannot be stored: no codec takes it, or its codec refuses it."""


class FormatError(NeurofmShardsError, ValueError):
    """Bytes on disk (shard, index, manifest, payload) are damaged, hostile or of an unknown version."""


class UnsafePickleError(FormatError):
    """A pickle names something outside the allow-list, or is too large or too deep."""


class UnsupportedError(FormatError):
    """A file is sound, as far as one can see, but holds what this program refuses to read."""


class IntegrityError(FormatError):
    """A checksum does not match."""


class StorageError(NeurofmShardsError, OSError):
    """A file cannot be opened or read for a reason that lies with the machine, not with what the file holds."""


class AccessError(StorageError, PermissionError):
    """A file or folder may not be opened."""


class UnsafePathError(NeurofmShardsError, OSError):
    """Something in the folder of a data set is a link, or not what this program would have put there."""


class NoShardsError(NeurofmShardsError, ValueError):
    """A folder holds no shards."""

    exit_code = 2


class StateError(NeurofmShardsError, ValueError):
    """A saved state or checkpoint does not belong to this data set, version or setting, or is damaged."""


class SampleNotFoundError(NeurofmShardsError, KeyError):
    """No sample has this key."""

    exit_code = 2


class SampleIndexError(NeurofmShardsError, IndexError):
    """A sample number is out of range."""

    exit_code = 2


class TransformError(NeurofmShardsError, RuntimeError):
    """A transform ended an iteration that is not its own, or returned something else than a sample or batch."""


class WorkerError(NeurofmShardsError, RuntimeError):
    """A worker thread or process died or was lost."""


class ClosedError(NeurofmShardsError, ValueError):
    """Something was asked of a data set that was closed before."""


#: Control characters but for tab and end of line, and those that change the direction of writing.
_CONTROLS = {
    code: f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def visible(text: str) -> str:
    """Return a text in which control characters, which a terminal would obey, are spelled out."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return which known name was probably meant, in parentheses to be put behind the wrong one; or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def portable(error: BaseException) -> BaseException:
    """Return an error that survives the journey to another process with its own type and message.

    One of a stranger's classes that cannot be pickled, or comes back as something else, becomes a
    :class:`WorkerError` that says what it was.
    """
    try:
        same = type(pickle.loads(pickle.dumps(error))) is type(error)  # noqa: S301  (made in this very line)
    except Exception:  # noqa: BLE001  (pickling runs code of any kind)
        same = False
    return error if same else WorkerError(f"{type(error).__name__} in a worker process: {error}")
