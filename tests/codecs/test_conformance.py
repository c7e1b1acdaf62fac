"""The codecs of the format pass the suite that plugin authors use."""

from __future__ import annotations

import numpy as np

from neurofm_shards.testing.codecs import CodecConformance

ARRAYS = (
    np.arange(6.0).reshape(2, 3),
    np.zeros((0, 4), "<i4"),
    np.arange(300, dtype="<u2"),
    np.array([True, False]),
    np.array(1.5, "<f4"),
    np.ones((2, 3, 4), "<c8"),
)
REFUSED = (np.array([None]), np.array(["a"]), np.zeros(2, [("x", "f8")]), "text", None, object())


class TestPyd(CodecConformance):
    name = "pyd"
    values = ARRAYS
    refused = REFUSED


class TestNpy(CodecConformance):
    name = "npy"
    values = ARRAYS
    refused = REFUSED


class TestJson(CodecConformance):
    name = "json"
    values = (1, 1.0, "text", True, None, [1, [2.5, "x"]], {"a": {"b": []}}, -(2**63), 2**64 - 1)
    refused = (float("nan"), 2**64, {1: 2}, b"bytes", {1, 2}, np.zeros(2), object())
