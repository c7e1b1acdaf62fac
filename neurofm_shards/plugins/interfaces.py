"""The contracts: what a source, codec, compression, transform or command has to do, and what configures them.

A plugin author subclasses one of these classes, describes it with an entry (see :mod:`neurofm_shards.plugins.entries`)
and checks it with the conformance suite of the same name in :mod:`neurofm_shards.testing`. Nothing here imports numpy
or torch at run time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from neurofm_shards.types import ArrayLayout, Block, Buffer, Problem, Sample, SourcePlan

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from typing_extensions import Self

    from neurofm_shards.streams import Recording


class PluginConfig(BaseModel):
    """Frozen, closed configuration of one plugin.

    A subclass adds ``kind: Literal["its-name"] = "its-name"`` and its options as fields with defaults and
    ``Field(description=...)``: command-line flags, ``neurofm-shards schema`` and the reference page are made from them.

    Examples
    --------
    >>> from typing import Literal
    >>> from pydantic import Field
    >>> class ClipConfig(PluginConfig):
    ...     kind: Literal["clip"] = "clip"
    ...     limit: float = Field(5.0, gt=0, description="largest absolute value that is kept")
    >>> ClipConfig(limit=3).limit
    3.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str


class Codec(ABC):
    """Turns one field's value into bytes and back.

    ``encode`` and ``decode`` stand side by side in one class. Instances are stateless, cheap and used from several
    threads at once.
    """

    #: Name in the registry and in the manifest.
    name: ClassVar[str]
    #: Last part of the member name, without the dot: ``"npy"``.
    extension: ClassVar[str]
    #: Raised when the bytes written change so that older code cannot read them; recorded in the manifest.
    version: ClassVar[int] = 1

    @abstractmethod
    def accepts(self, value: object) -> bool:
        """Return whether this codec can store the value (cheap: looks at the type, not at the content)."""

    @abstractmethod
    def encode(self, value: Any) -> Sequence[Buffer]:
        """Return the payload as buffers, to be written one behind the other.

        Raises
        ------
        EncodeError
            The value cannot be stored; the message names its type and the reason.
        """

    @abstractmethod
    def decode(self, payload: memoryview) -> Any:
        """Return the value; arrays are new and writeable, never views of ``payload``.

        Raises
        ------
        FormatError
            The payload is damaged or hostile. No other exception may leave this method.
        """

    def layout(self, head: memoryview, size: int) -> ArrayLayout | None:  # noqa: ARG002  (most codecs have none)
        """Return where the raw array bytes lie, so that batches can be copied without decoding.

        Parameters
        ----------
        head : memoryview
            The first bytes of a payload (at least the first 512, or all of it where it is shorter).
        size : int
            The payload's whole size in bytes.

        Returns
        -------
        ArrayLayout or None
            None when the payload is not one contiguous plain array; ``decode`` is used then. A layout is only returned
            when ``decode`` would give exactly the array it describes.
        """
        return None

    def envelope(self, dtype: str, shape: tuple[int, ...]) -> tuple[bytes, bytes] | None:  # noqa: ARG002
        """Return the constant bytes before and after the raw C-order data of such an array, or None.

        With it, records of thousands of samples are made without calling ``encode``; the result must be byte-identical
        to ``b"".join(encode(array))``.
        """
        return None


class Assembler:
    """Puts compressed frames behind one another into one file; used by one thread, in order."""

    def start(self) -> bytes:
        """Return the bytes before the first frame."""
        return b""

    def add(self, raw: Buffer, compressed: bytes) -> bytes:  # noqa: ARG002  (formats with a checksum need raw)
        """Return the bytes to write for one frame."""
        return compressed

    def finish(self) -> bytes:
        """Return the bytes after the last frame."""
        return b""


class Compression(ABC):
    """Compresses a shard as a run of independent frames.

    The tar is cut into frames of a fixed raw size. ``compress_frame`` turns one into bytes and may run in many threads
    at once; an :class:`Assembler` joins the results so that the file is one that ordinary tools read. The frame table
    kept in the shard's index then makes any frame readable alone through ``decompress_frame``. A subclass that
    implements ``compress_frame`` and ``decompress_frame`` alone is a chain of frames.

    The bytes written must depend on the configuration alone, never on the number of threads or on which library happens
    to be installed.
    """

    #: Name in the registry, in the manifest and of ``compression=``.
    name: ClassVar[str]
    #: File suffix with its dot, put behind ``.tar``: ``".gz"``.
    suffix: ClassVar[str]
    #: First bytes of every file of this kind.
    magic: ClassVar[bytes] = b""
    #: Whether frames can be read alone. False: the whole shard is one frame.
    random_access: ClassVar[bool] = True
    #: Whether ``tar``, ``tarfile`` (stream mode) and webdataset read the file; shown by ``info``.
    universal: ClassVar[bool] = False

    @abstractmethod
    def compress_frame(self, raw: Buffer) -> bytes:
        """Compress one frame. Pure; called from several threads at once."""

    @abstractmethod
    def decompress_frame(self, data: memoryview, out: memoryview) -> None:
        """Decompress one frame into exactly ``len(out)`` writeable bytes. Called from several threads at once.

        Raises
        ------
        FormatError
            The frame is damaged, or it holds more or fewer bytes than ``out`` has room for (more must be found out
            without decompressing all of it: it may be a bomb).
        """

    def assembler(self) -> Assembler:
        """Return a new assembler for one file."""
        return Assembler()

    @abstractmethod
    def open(self, file: BinaryIO) -> BinaryIO:
        """Return a readable stream of the whole decompressed file, whoever wrote it (foreign shards included)."""


class Samples(ABC):
    """One opened input that is already cut into samples. A context manager; used in one thread of one process."""

    @abstractmethod
    def plan(self) -> SourcePlan:
        """Return how many samples there are, with which columns, without reading the data."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Block:
        """Return the samples ``start`` to ``stop`` (exclusive), with all planned columns.

        The same range gives the same block, whatever was read before.
        """

    def close(self) -> None:  # noqa: B027  (nothing to close is the common case)
        """Release files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Source(ABC):
    """Opens inputs of one format. Made by its entry's factory from its config; cheap; picklable."""

    def group(self, paths: Sequence[str]) -> Sequence[tuple[str, ...]]:
        """Return which paths belong together as one input; the default makes each path an input of its own."""
        return [(path,) for path in paths]

    @abstractmethod
    def open(self, paths: tuple[str, ...]) -> Samples | Recording:
        """Open one input.

        Raises
        ------
        SourceError
            The input cannot be read; the message names the file, what is wrong with it and what to do.
        """

    def inspect(self, paths: tuple[str, ...]) -> Inspection | None:  # noqa: ARG002  (most sources leave it to the core)
        """Describe what is inside, also of an input that ``open`` refuses; see ``neurofm-shards inspect``.

        Returns
        -------
        Inspection or None
            None (the default) leaves it to the core, which describes what ``open`` returns.
        """
        return None


class Inspection:
    """A tree of what an input holds. Made by ``Source.inspect``.

    Attributes
    ----------
    title : str
        File name, format and version.
    tree : dict
        Nested JSON values, printed as a tree: a dict is a branch, everything else a leaf.
    problems : tuple of Problem
        What was odd, each with its consequence.
    """

    def __init__(self, title: str, tree: dict[str, Any], problems: Sequence[Problem] = ()) -> None:
        self.title = title
        self.tree = tree
        self.problems = tuple(problems)


class SampleSequence(Samples):
    """Mix-in for sources that only know one sample at a time: implement ``plan`` and ``sample``."""

    @abstractmethod
    def sample(self, i: int) -> tuple[Sample, dict[str, Any]]:
        """Return sample ``i`` and its metadata."""

    def read(self, start: int, stop: int) -> Block:
        """Build a block from single samples."""
        from neurofm_shards.blocks import block_from_samples  # noqa: PLC0415  (needs numpy)

        pairs = [self.sample(i) for i in range(start, stop)]
        return block_from_samples([sample for sample, _ in pairs], [metadata for _, metadata in pairs])


class Transform(ABC):
    """Changes samples, at conversion or at load. Picklable; deterministic; given numpy arrays.

    Implement ``__call__`` and be done; override ``apply_block`` too where a whole block can be changed in one numpy
    call.
    """

    #: Whether the work holds the GIL (Python loops); the loader then prefers processes to threads.
    holds_gil: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, sample: Sample, metadata: dict[str, Any]) -> Sample | None:
        """Return the changed sample (a new dict), or None to drop it (at conversion only)."""

    def apply_block(self, block: Block) -> Block:
        """Change all samples of a block; the default calls the transform on each."""
        from neurofm_shards.blocks import map_block  # noqa: PLC0415  (needs numpy)

        return map_block(self, block)

    def bind(self, manifest: dict[str, Any]) -> Transform:  # noqa: ARG002  (most transforms need no statistics)
        """Return the transform to use with this data set (at load): one that needs statistics takes them from here."""
        return self


class Command(ABC):
    """One command of ``neurofm-shards``. Made by its entry's factory, without arguments, when the command is used.

    Results go to stdout, progress and notes to stderr. Errors of :mod:`neurofm_shards.errors` become one line and their
    exit code. Import what is costly inside ``run``: ``--help`` makes the command too.

    Examples
    --------
    >>> class Count(Command):
    ...     def add_arguments(self, parser):
    ...         parser.add_argument("path", help="a folder of shards")
    ...
    ...     def run(self, args):
    ...         from neurofm_shards import ShardedDatasetInfo
    ...
    ...         print(ShardedDatasetInfo(args.path).get_summary()["total_samples"])
    ...         return 0
    """

    @abstractmethod
    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's arguments to its parser."""

    @abstractmethod
    def run(self, args: Namespace) -> int:
        """Run the command and return its exit code: 0 fine, 1 findings, 2 usage, 3 plugins."""


@runtime_checkable
class PlotsSamples(Protocol):
    """What a command named ``show`` has beside :class:`Command`, so that ``ShardDataset(...)[0].plot()`` draws."""

    def plot(self, sample: Mapping[str, Any], collection: Any, **options: Any) -> Any:
        """Draw a sample.

        Parameters
        ----------
        sample : mapping of str to object
            Its fields, arrays as tensors, and ``metadata``.
        collection : SampleCollection
            Where it is from: ``columns``, ``table(name)`` and ``manifest``.
        **options
            As the caller gave them.

        Returns
        -------
        object
            The picture, for example a ``matplotlib.figure.Figure``.
        """
