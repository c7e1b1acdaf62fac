"""Fixtures for the recordings room."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference():
    """The independent computation in ``reference.py``."""
    spec = importlib.util.spec_from_file_location("recordings_reference", Path(__file__).with_name("reference.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
