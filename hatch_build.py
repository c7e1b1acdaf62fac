"""Compiles the one module that is written in C. Without a compiler the package is the same, and copies with NumPy."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

MODULE = "neurofm_shards.reading._rows"
#: ``pure``: compile nothing. ``compiled``: fail where that cannot be done.
CHOICE = "NEUROFM_SHARDS_BUILD"


class CompileRows(BuildHookInterface[Any]):
    """Puts the compiled module into the wheel, or beside its source for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile."""
        self._scratch = tempfile.mkdtemp()
        choice = os.environ.get(CHOICE, "auto")
        if self.target_name != "wheel" or choice == "pure":
            return
        try:
            built = self._compiled(in_place=version == "editable")
        except Exception as error:
            if choice == "compiled":
                raise
            self.app.display_warning(f"{MODULE} was not compiled, NumPy will do its work: {error}")
            return
        if version != "editable":
            build_data["force_include"][str(built)] = f"{MODULE.replace('.', '/')}{''.join(built.suffixes)}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Clear up."""
        shutil.rmtree(self._scratch)

    def _compiled(self, *, in_place: bool) -> Path:
        source = f"{MODULE.replace('.', '/')}.c"
        here = Path.cwd()
        os.chdir(self.root)
        try:
            command = build_ext(Distribution({"name": "neurofm-shards", "ext_modules": [Extension(MODULE, [source])]}))
            command.inplace = in_place
            command.build_temp = command.build_lib = self._scratch
            command.ensure_finalized()
            command.run()
            return Path(command.get_outputs()[0]).resolve()
        finally:
            os.chdir(here)
