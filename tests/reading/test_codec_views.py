"""Codecs of strangers cannot keep, or change, the bytes that a data set is read from."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import gc, sys, numpy as np
import neurofm_shards as nf
from neurofm_shards.plugins.interfaces import Codec
from neurofm_shards.reading.collection import ShardCollection

class View(Codec):
    name = "view"
    extension = "view"
    def accepts(self, value): return isinstance(value, bytes)
    def encode(self, value): return [value]
    def decode(self, payload): return SHAPES[sys.argv[3]](payload)
    def layout(self, head, size): return None

SHAPES = {
    "array": lambda payload: np.frombuffer(payload, np.uint8),
    "memoryview": lambda payload: payload,
    "inside": lambda payload: {"deep": [np.frombuffer(payload, np.uint8)]},
    "object": lambda payload: type("Lazy", (), {"__array__": lambda self, *a, **k: np.frombuffer(payload, np.uint8)})(),
    "written": lambda payload: payload.__setitem__(0, 0),
}
def raw(value):
    if isinstance(value, dict): value = value["deep"][0]
    return bytes(np.asarray(value).tobytes())

from neurofm_shards.plugins.entries import CodecEntry
nf.register_codec(CodecEntry(name="view", summary="hands out views", extension="view", factory=View))
folder, compression, shape = sys.argv[1:4]
expected = [bytes([i + 1]) * 70_000 for i in range(60)]
with nf.WebDatasetWriter(folder, 60, compression=compression, codecs={"x": "view"}) as writer:
    for value in expected: writer.write_sample({"x": value})
data = ShardCollection.open(folder, io=sys.argv[4], cache_bytes=1 << 20)
try:
    first = data.gather(np.array([0]))["x"][0]
except TypeError as error:
    assert shape == "written", error
    sys.exit(0)
for i in range(60): data.gather(np.array([i]))
assert raw(first) == expected[0], "changed by reading on"
data.close(); gc.collect()
assert raw(first) == expected[0], "changed by closing"
"""


def test_values_stay_what_they_are(tmp_path):
    number = 0
    for io in ("mmap", "pread"):
        for compression in ("none", "gz"):
            for shape in ("array", "memoryview", "inside", "object", "written"):
                number += 1
                words = [sys.executable, "-c", CODE, str(tmp_path / str(number)), compression, shape, io]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                assert done.returncode == 0, (io, compression, shape, done.returncode, done.stderr)
