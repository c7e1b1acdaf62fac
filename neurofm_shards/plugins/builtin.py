"""The built-in source, codecs, compressions and executors, registered through the same hooks as everybody else's."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm_shards.plugins.entries import CodecEntry, CompressionEntry, ExecutorEntry, SourceEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_sources() -> Sequence[SourceEntry]:
    """Describe the source that reads data sets of stored recordings."""
    return (
        SourceEntry(
            name="recordings",
            summary="data sets that were converted with --layout recordings",
            factory="neurofm_shards.stored.recording:RecordingsSource",
            suffixes=("dataset_metadata.json",),
            folders=True,
        ),
    )


@hookimpl
def neurofm_register_codecs() -> Sequence[CodecEntry]:
    """Describe the three codecs of the format."""
    return (
        CodecEntry(
            name="pyd",
            summary="arrays as a plain pickle that every WebDataset reader opens (default)",
            factory="neurofm_shards.codecs.pyd:PydCodec",
            extension="pyd",
        ),
        CodecEntry(
            name="npy",
            summary="arrays in NumPy's own format, which Hugging Face datasets and Ray decode too",
            factory="neurofm_shards.codecs.npy:NpyCodec",
            extension="npy",
        ),
        CodecEntry(
            name="json",
            summary="numbers, strings, booleans, None, lists and dicts",
            factory="neurofm_shards.codecs.json:JsonCodec",
            extension="json",
        ),
    )


@hookimpl
def neurofm_register_compressions() -> Sequence[CompressionEntry]:
    """Describe the compressions of the standard library."""
    return (
        CompressionEntry(
            name="gz",
            summary="gzip; every reader, random access",
            factory="neurofm_shards.compression.gz:GzCompression",
            config="neurofm_shards.compression.gz:GzConfig",
            suffix=".gz",
            magic=b"\x1f\x8b",
        ),
        CompressionEntry(
            name="bz2",
            summary="bzip2; every reader, sequential",
            factory="neurofm_shards.compression.bz2:Bz2Compression",
            config="neurofm_shards.compression.bz2:Bz2Config",
            suffix=".bz2",
            magic=b"BZh",
        ),
        CompressionEntry(
            name="xz",
            summary="xz; every reader, random access",
            factory="neurofm_shards.compression.xz:XzCompression",
            config="neurofm_shards.compression.xz:XzConfig",
            suffix=".xz",
            magic=b"\xfd7zXZ\x00",
        ),
    )


@hookimpl
def neurofm_register_executors() -> Sequence[ExecutorEntry]:
    """Describe the executors of the standard library."""
    return (
        ExecutorEntry(
            name="serial",
            summary="one task after the other in this process",
            factory="neurofm_shards.convert.executors:SerialExecutor",
            config="neurofm_shards.convert.executors:SerialConfig",
        ),
        ExecutorEntry(
            name="processes",
            summary="a pool of processes on this machine (default for more than one worker)",
            factory="neurofm_shards.convert.executors:make_process_pool",
            config="neurofm_shards.convert.executors:ProcessesConfig",
        ),
        ExecutorEntry(
            name="threads",
            summary="a pool of threads in this process",
            factory="neurofm_shards.convert.executors:make_thread_pool",
            config="neurofm_shards.convert.executors:ThreadsConfig",
        ),
    )
