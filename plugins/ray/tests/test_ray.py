"""Conversions on Ray: the contract of executors, and a Ray that is not there."""

from __future__ import annotations

import sys

import pytest

from neurofm_shards.errors import ConfigError
from neurofm_shards.plugins.registry import registry
from neurofm_shards.testing import ExecutorConformance

pytestmark = pytest.mark.filterwarnings("ignore")


class TestRay(ExecutorConformance):
    name = "ray"


def test_listing_imports_no_ray():
    entry = registry().executors.get("ray")
    assert entry.distribution == "neurofm-shards-ray"
    assert set(entry.config_model().model_fields) >= {"address", "resources", "runtime_env"}


def test_a_ray_that_is_not_there_is_said():
    with pytest.raises(ConfigError, match="no Ray answers at 127.0.0.1:9"):
        registry().executors.make({"kind": "ray", "address": "127.0.0.1:9"})
    assert "ray" in sys.modules
