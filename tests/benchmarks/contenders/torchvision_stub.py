"""What Streaming imports of torchvision for its image classes, which no benchmark uses.

The torchvision that pip chooses is built for another torch (CUDA) than the one all contenders share (CPU), and fails
when it is imported; with these names Streaming can be imported and measured all the same.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


def install_where_broken() -> None:
    """Put empty modules in torchvision's place, unless it works."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _put("torchvision")
        _put("torchvision.transforms")
        _put("torchvision.transforms.functional", to_tensor=None)
        _put("torchvision.datasets", VisionDataset=object)


def _put(name: str, **values: object) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(values)
    sys.modules[name] = module
