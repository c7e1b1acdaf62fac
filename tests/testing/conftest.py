"""A registry of its own for each test."""

from __future__ import annotations

import pytest

from neurofm_shards.plugins import registry as registry_module


@pytest.fixture(autouse=True)
def _fresh_registry():
    registry_module.registry.cache_clear()
    yield
    registry_module.registry.cache_clear()
