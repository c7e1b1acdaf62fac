"""NWB stores in Zarr, through hdmf-zarr, whose requirements conflict with current zarr: an extra."""

from __future__ import annotations

import importlib
import warnings

from neurofm_shards.errors import MissingPluginError, SourceError
from neurofm_shards_nwb.content import FileContent
from neurofm_shards_nwb.pynwb_reader import read_with_pynwb


def open_zarr(path: str) -> FileContent:
    """Open a Zarr store.

    Raises
    ------
    MissingPluginError
        hdmf-zarr is not installed.
    SourceError
        The store cannot be opened or constructed.
    """
    try:
        module = importlib.import_module("hdmf_zarr.nwb")
    except ImportError as error:
        raise MissingPluginError(
            f"{path} is an NWB store in Zarr, and hdmf-zarr is not installed ({error}): "
            "pip install 'neurofm-shards-nwb[zarr]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            io = module.NWBZarrIO(path, mode="r", load_namespaces=True)
            return read_with_pynwb(path, io, io.close)
        except Exception as error:
            raise SourceError(f"{path} cannot be read as an NWB store in Zarr ({error}): get it again") from error
